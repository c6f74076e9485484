"""Named sources to folders of features, each with its report, however often it is killed."""

import contextlib
import json
import shutil
from dataclasses import replace

import jax
import pyarrow.parquet as pq
import pytest
from images import encode, smooth, write_folder
from small_models import add_presets
from terminals import Terminal

from dinojax.backbones.model import Model
from dinojax.curation import embed_stage as module
from dinojax.curation.embed_stage import EmbedOptions, embed_stage
from dinojax.curation.embeddings import RowsOptions, read_embeddings
from dinojax.data.open import open_source
from dinojax.embedding import embed as embedding
from dinojax.mesh import make_mesh

MODEL = "random:small16"


@pytest.fixture(scope="module", autouse=True)
def presets():
    """Models on one device, each compiled once."""
    known = {}

    def load(opened):
        key = opened.name, opened.backbone.precision
        if key not in known:
            known[key] = Model.read(opened, make_mesh(1, 1, devices=jax.devices()[:1]))
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        add_presets(patch)
        patch.setattr(module, "own_model", load)
        yield


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> EmbedOptions:
    files = {f"{i}.jpg": encode(smooth(20 + i, 30)) for i in range(9)} | {"bad.jpg": b"no image"}
    pool = write_folder(tmp_path_factory.mktemp("data") / "pool", files)
    sources = (("pool", str(pool)), ("test", "scenes:3"))
    return EmbedOptions(MODEL, sources, image_px=32, batch_size=8, shard=4)


@pytest.fixture(scope="module")
def done(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "embed"
    return folder, embed_stage(options, folder)


def test_stages_read_what_it_leaves(options, done):
    folder, report = done
    found = read_embeddings(RowsOptions(str(folder / "pool")), "dedup.rows")
    assert dict(zip(found.ids, found.pixels.tolist(), strict=True)) == {
        f"{i}.jpg": (20 + i) * 30 for i in range(9)
    }
    test = read_embeddings(RowsOptions(str(folder / "test")), "dedup.references")
    assert sorted(test.ids) == [f"scenes/train/00000{i}" for i in range(3)]
    counts = ("rows_in", "rows_out", "unreadable")
    assert [report["sources"]["pool"][name] for name in counts] == [10, 9, 1]
    assert [report["sources"]["test"][name] for name in counts] == [3, 3, 0]
    # The folder is one that other tools read as a whole.
    names = ["id", "label", "height", "width", "cls"]
    assert pq.read_table(folder / "pool").column_names == names


def test_the_report(options, done):
    folder, report = done
    assert report == json.loads((folder / "report.json").read_text())
    assert report["inputs"]["pool"] == json.loads((folder / "pool" / "_about.json").read_text())
    assert {"backbone", "records", "image_px", "compute"} <= report["inputs"]["test"].keys()
    assert list(report["outputs"]) == [
        *(f"pool/features-0000{i}-of-00003.parquet" for i in range(3)),
        "test/features-00000-of-00001.parquet",
    ]
    pool = report["sources"]["pool"]
    assert pool["images_per_s"] == pytest.approx(10 / pool["seconds"])


def test_what_is_done_is_not_done_again(options, done, monkeypatch):
    """And a source that is added later is all that is."""
    folder, report = done
    written, real = [], embedding._rows

    def spy(model, source, *rest):
        written.append(len(source))
        return real(model, source, *rest)

    monkeypatch.setattr(embedding, "_rows", spy)
    more = replace(options, sources=(*options.sources, ("seeds", "scenes:2")))
    again = embed_stage(more, folder)
    assert written == [2] and again["sources"].keys() == {"pool", "test", "seeds"}
    for key in ("sources", "outputs", "inputs"):
        assert report[key].items() <= again[key].items()
    assert embed_stage(options, folder) == report and written == [2]


def test_killed_and_run_again(options, done, monkeypatch, tmp_path):
    """Once within the second of three files, once before the report."""
    _, whole = done
    real, calls = embedding._rows, []

    def dies(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embedding, "_rows", dies)
        embed_stage(options, tmp_path)
    assert len(list((tmp_path / "pool").glob("*.parquet"))) == 1
    assert not (tmp_path / "report.json").exists()
    with pytest.raises(FileNotFoundError, match="has 1 of the 3 files that belong to features-0"):
        read_embeddings(RowsOptions(str(tmp_path / "pool")), "dedup.rows")

    def never(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "finish", never)
        with contextlib.redirect_stderr(Terminal()) as screen:
            embed_stage(options, tmp_path)
    pool, test = screen.bars()
    assert pool.startswith("embed: pool: 100%") and "| 10/10 [" in pool
    assert " 4/10 [" in screen.getvalue() and " 0/10 [" not in screen.getvalue()
    assert test.startswith("embed: test: 100%") and "| 3/3 [" in test
    report = embed_stage(options, tmp_path)
    assert report["outputs"] == whole["outputs"]
    assert report["sources"]["pool"]["images_per_s"] is None  # of calls before


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image_px": 48}, "image_px was 32 and is 48"),
        ({"features": ("mean_patch",)}, "shapes was"),
        ({"precision": "bfloat16"}, "compute was"),
        ({"model": "random:small16@1"}, "backbone was"),
        ({"shard": 5}, "shard was 4 and is 5"),
        ({"sources": (("pool", "scenes:3"),)}, "records was"),
    ],
)
def test_every_option_is_bound(options, done, values, words):
    with pytest.raises(ValueError, match=rf"pool holds other features: .*{words}"):
        embed_stage(replace(options, **values), done[0])


def test_features_are_columns(options, tmp_path):
    given = replace(options, sources=(("t", "scenes:2"),), features=("cls", "mean_patch"))
    embed_stage(given, tmp_path)
    names = pq.read_table(tmp_path / "t").column_names
    assert names == ["id", "label", "height", "width", "cls", "mean_patch"]


def test_a_file_that_has_changed(options, tmp_path):
    given = replace(options, sources=(("t", "scenes:2"),))
    embed_stage(given, tmp_path)
    (path,) = (tmp_path / "t").glob("*.parquet")
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(ValueError, match=r"is not what report.json says; delete"):
        embed_stage(given, tmp_path)


def test_a_source_that_was_deleted_is_done_anew(options, tmp_path):
    given = replace(options, sources=(("a", "scenes:2"), ("b", "scenes:3")))
    first = embed_stage(given, tmp_path)
    shutil.rmtree(tmp_path / "b")
    again = embed_stage(replace(given, sources=(("a", "scenes:2"), ("b", "scenes:4"))), tmp_path)
    assert again["sources"]["a"] == first["sources"]["a"]
    assert again["sources"]["b"]["rows_in"] == 4 and again["inputs"]["a"] == first["inputs"]["a"]


def test_mistakes(options, tmp_path):
    scenes = "scenes:2"
    for values, message in (
        ({"model": None}, "embed.model=None is no model; give what dinojax.load takes"),
        ({"model": "random:vitx"}, "vitx"),
        ({"model": str(tmp_path / "none")}, "none"),
        ({"sources": ()}, "embed.sources is empty; give some, such as"),
        ({"sources": (("a/b", scenes),)}, "embed.sources: 'a/b' is no name of a folder"),
        ({"sources": (("..", scenes),)}, "'..' is no name of a folder"),
        ({"sources": (("a", scenes), ("a", "scenes:3"))}, "embed.sources names 'a' twice"),
        ({"sources": (("a", scenes), ("b", "folder:/none"))}, "/none is not a folder"),
        ({"features": ("clss",)}, "'clss' is unknown; use 'cls'"),
        ({"image_px": 40}, "40 is not a multiple of 16"),
        ({"precision": "int4"}, "int4"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"shard": 0}, "shard=0 must be at least 1"),
    ):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            embed_stage(replace(options, **values), tmp_path / "embed")
        assert message in str(error.value)
    assert not (tmp_path / "embed").exists()


def test_ids_are_those_of_the_source(options, done):
    source = open_source(options.sources[0][1])
    ids = {source.record_id(i) for i in range(len(source))}
    found = read_embeddings(RowsOptions(str(done[0] / "pool")), "dedup.rows")
    assert ids - set(found.ids) == {"bad.jpg"}
