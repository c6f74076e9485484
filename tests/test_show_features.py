"""Pictures of features from the command's side: every kind, of a run, a series and bare weights."""

import dataclasses
import re

import numpy as np
import pytest
from images import encode, smooth
from marks import slow_but
from PIL import Image
from trained_runs import make_run, small_config

from dinojax.backbones.open import open_backbone
from dinojax.backbones.run import open_trained
from dinojax.pictures.figure import Figure
from dinojax.pictures.images import read_squares
from dinojax.show_features import (
    COMMANDS,
    Wanted,
    chosen_patch,
    earlier_ones,
    read_images,
    show_features,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    make_run(workdir, small_config())
    for series in ("checkpoints", "snapshots"):
        (workdir / series / "x.tmp").mkdir()
    return workdir


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        (folder / f"{i}.png").write_bytes(encode(np.roll(smooth(40, 56), 9 * i, 1), "PNG"))
    return folder


@pytest.mark.parametrize("command", slow_but(["pca"], COMMANDS))
@pytest.mark.parametrize("ending", ["png", "html"])
def test_every_kind(run, files, tmp_path, command, ending):
    out = tmp_path / "sub" / f"x.{ending}"
    given = Wanted(str(run), [str(files)], image_px=32, images=3, batch=2)
    assert show_features(command, given, str(out)) == out
    if ending == "png":
        picture = np.asarray(Image.open(out))
        assert picture.ndim == 3 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    else:
        text = out.read_text()
        assert "0.png" in text and not re.findall(r'(?:src|href)="(?!data:)', text)


def seen(monkeypatch, *given: object, **options: object) -> Figure:
    """The figure that a command draws."""
    from dinojax import show_features as app

    figures = []
    monkeypatch.setattr(
        app, "draw", lambda figure: figures.append(figure) or Image.new("RGB", (1, 1))
    )
    show_features(*given, **options)  # type: ignore[arg-type]
    return figures[0]


def test_a_series_has_a_column_per_step(run, files, tmp_path, monkeypatch):
    wanted = Wanted(str(run), [str(files / "1.png")], image_px=16, series=True)
    figure = seen(monkeypatch, "pca", wanted, str(tmp_path / "x.png"))
    ((name, tiles),) = figure.rows
    assert name == "1.png" and [tile.caption for tile in tiles] == ["image", "step 3"]
    assert figure.grid == (2, 2) and tiles[1].pixels.shape == (2, 2, 3)
    assert tiles[0].pixels.shape == (16, 16, 3)


def test_the_patch_that_is_asked_for(run, files, tmp_path, monkeypatch):
    wanted = Wanted(str(run), [str(files)], image_px=32, at=(0.9, 0.3), of=1)
    figure = seen(monkeypatch, "similarity", wanted, str(tmp_path / "x.png"))
    marks = [tiles[1].mark for _, tiles in figure.rows]
    assert marks == [None, (3, 1, 4, 4), None]
    (row, column, *_), pixels = marks[1], figure.rows[1][1][1].pixels
    assert pixels[row, column].tolist() == [252, 255, 164]  # cosine 1 with itself
    assert "row 3, column 1 of 1.png" in figure.facts[-1] and figure.scale.high == "1.00"


def test_the_series_of_a_run(run, tmp_path, monkeypatch):
    """However the path is written; that of one student of several keeps its name."""
    names = []

    def spy(name):
        names.append(name)
        return open_trained(name.partition("#")[0])

    monkeypatch.setattr("dinojax.show_features.open_trained", spy)
    monkeypatch.chdir(run.parent)
    for given in (f"./{run.name}#small", f"{run.parent}//{run.name}#small"):
        assert len(earlier_ones(given)) == 1
    assert names == [f"{run.name}/snapshots/3#small", f"{run}/snapshots/3#small"]
    with pytest.raises(FileNotFoundError, match="has no snapshots or checkpoints"):
        earlier_ones(str(tmp_path))


def test_without_images_those_that_the_run_held_out(run, caplog):
    found = read_images(open_backbone(str(run)), [], 2, 16)
    assert [one.name for one in found] == ["scenes/test/000000", "scenes/test/000003"]
    found = read_images(open_backbone("random:vits16"), [], 2, 16)
    assert [one.name for one in found] == ["scenes/train/000000", "scenes/train/000500"]
    opened = open_trained(str(run))
    config = {**opened.contract["config"], "data": {**opened.contract["config"]["data"]}}
    config["data"]["source"] = "folder:/nowhere"
    gone = dataclasses.replace(opened, contract={**opened.contract, "config": config})
    assert read_images(gone, [], 1, 16)[0].name == "scenes/train/000000"
    assert "scenes:1000 in place of the images of the run: " in caplog.text


def test_unreadable_images_are_left_out(run, tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "b.png").write_bytes(encode(smooth(40, 56), "PNG"))
    found = read_squares([str(tmp_path)], 8, 32)
    assert [(one.name, one.pixels.shape) for one in found] == [("b.png", (32, 32, 3))]
    assert "a.png is left out" in caplog.text


@pytest.mark.parametrize(
    ("changes", "out", "words"),
    [
        ({}, "x.jpg", r"x\.jpg is neither \.png nor \.html; use --out=x\.html"),
        ({"image_px": 20}, "x.png", "20 is not a multiple of 8"),
        ({"layer": 1}, "x.png", r"has layers 0\.\.0"),
    ],
)
def test_what_is_refused(run, files, tmp_path, changes, out, words):
    given = {"image_px": 16, "data": [str(files / "0.png")], **changes}
    with pytest.raises(ValueError, match=words):
        show_features("attention", Wanted(str(run), **given), str(tmp_path / out))


def test_places_outside_are_refused():
    with pytest.raises(ValueError, match=r"--at=1\.0,0\.5 is outside 0\.\.1; use 0\.5,0\.5"):
        chosen_patch(Wanted("x", at=(1.0, 0.5)), (1, 2, 2, 8))
    with pytest.raises(ValueError, match="--of=1 is none of 1 images; use 0"):
        chosen_patch(Wanted("x", of=1), (1, 2, 2, 8))


def test_one_image_has_no_neighbours(run, files, tmp_path):
    wanted = Wanted(str(run), [str(files / "0.png")], image_px=16)
    with pytest.raises(ValueError, match="1 image has no neighbours"):
        show_features("neighbours", wanted, str(tmp_path / "x.png"))
