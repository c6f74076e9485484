"""Files of features: the model's own, by record, however often it is interrupted."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from array_record.python import array_record_module
from small_models import add_presets, small_model
from tensorflow_datasets.proto import tf_example_pb2

import dinojax
from dinojax.backbones.model import Model
from dinojax.data.open import open_source
from dinojax.embedding import embed as app
from dinojax.mesh import make_mesh
from dinojax.precision import POLICIES


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        add_presets(patch)
        return small_model("random:small16")


OPTIONS = {"image_px": 32, "batch_size": 4, "shard": 6}


def expected(model, places) -> np.ndarray:
    """CLS of images of 128 px, which a canvas holds as they are, by the mean over 4 x 4 pixels."""
    source = open_source("scenes:10")
    pixels = np.stack([source[i].image for i in places])
    return model.features(np.asarray(shrunk(pixels)))["cls"]


def shrunk(pixels: np.ndarray) -> np.ndarray:
    from dinojax.evaluation.features import centre_crops

    size = np.full((len(pixels), 2), pixels.shape[1])
    crops = np.asarray(centre_crops(pixels, size, 32)) / 255 - [0.485, 0.456, 0.406]
    return (crops / [0.229, 0.224, 0.225]).astype(np.float32)


def test_parquet(model, tmp_path):
    """Ids, labels and features of every record, over two files and a batch that is not full."""
    paths = dinojax.embed("scenes:10", model, tmp_path, features=("cls", "mean_patch"), **OPTIONS)
    assert [path.name for path in paths] == [f"features-0000{i}-of-00002.parquet" for i in (0, 1)]
    rows = pq.read_table(tmp_path).to_pydict()
    source = open_source("scenes:10")
    assert rows["id"] == [source.record_id(i) for i in range(10)]
    assert rows["label"] == [source[i].label for i in range(10)]
    assert np.shape(rows["mean_patch"]) == (10, 64)
    assert rows["height"] == rows["width"] == [64] * 10
    groups = [pq.ParquetFile(path).metadata for path in paths]
    assert [[g.row_group(i).num_rows for i in range(g.num_row_groups)] for g in groups] == [
        [4, 2],
        [4],
    ]  # written as they come
    np.testing.assert_allclose(rows["cls"], expected(model, range(10)), rtol=1e-3, atol=1e-3)
    about = json.loads((tmp_path / "_about.json").read_text())
    assert about["shapes"] == {"cls": [64], "mean_patch": [64]} and about["image_px"] == 32


@pytest.mark.slow
def test_array_record(model, tmp_path):
    (path,) = dinojax.embed(
        "scenes:3", model, tmp_path, format="array_record", features=["patches"], image_px=32
    )
    reader = array_record_module.ArrayRecordReader(str(path))
    assert reader.num_records() == 3
    (data,) = reader.read([2])
    found = tf_example_pb2.Example.FromString(data).features.feature
    record = open_source("scenes:3")[2]
    assert found["id"].bytes_list.value[0].decode() == record.id
    assert found["label"].int64_list.value[0] == record.label
    patches = np.reshape(found["patches"].float_list.value, (2, 2, 64))
    whole = model.features(shrunk(record.image[None]))["patches"][0]
    np.testing.assert_allclose(patches, whole, rtol=1e-3, atol=1e-3)


def test_what_is_written_is_not_done_again(model, tmp_path, monkeypatch):
    """A killed call goes on where it stopped; the file is whole or not there."""
    whole = dinojax.embed("scenes:10", model, tmp_path / "whole", **OPTIONS)
    real, calls = app._rows, []

    def dies(*args: object):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(app, "_rows", dies)
    with pytest.raises(KeyboardInterrupt):
        dinojax.embed("scenes:10", model, tmp_path / "x", **OPTIONS)
    assert len(list((tmp_path / "x").glob("*.parquet"))) == 1
    paths = dinojax.embed("scenes:10", model, tmp_path / "x", **OPTIONS)
    assert len(calls) == 3
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in whole]


def test_a_folder_is_of_one_set_of_features(model, tmp_path):
    dinojax.embed("scenes:4", model, tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match="holds other features: image_px was 32 and is 48"):
        dinojax.embed("scenes:4", model, tmp_path, **{**OPTIONS, "image_px": 48})
    with pytest.raises(ValueError, match="holds other features: records was"):
        dinojax.embed("scenes:5", model, tmp_path, **OPTIONS)


def test_sizes_are_those_of_the_files(model, tmp_path):
    """Not of the canvases that they are averaged down to."""
    from images import encode, smooth, write_folder

    files = {"a.jpg": encode(smooth(700, 90)), "b.jpg": b"none", "c.jpg": encode(smooth(40, 600))}
    images = write_folder(tmp_path / "images", files)
    dinojax.embed(str(images), model, tmp_path / "out", image_px=32, batch_size=2)
    rows = pq.read_table(tmp_path / "out").to_pydict()
    assert (rows["id"], rows["height"], rows["width"]) == (["a.jpg", "c.jpg"], [700, 40], [90, 600])


def test_unreadable_records_have_no_row(model, tmp_path, caplog):
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(b"no image")
    from images import encode

    (tmp_path / "images" / "aa.png").write_bytes(encode(np.zeros((40, 40, 3), np.uint8), "PNG"))
    folder: Path = tmp_path / "out"
    dinojax.embed(str(tmp_path / "images"), model, folder, image_px=32, batch_size=2)
    rows = pq.read_table(folder).to_pydict()
    assert rows["id"] == ["aa.png"] and rows["label"] == [None]
    words = "2 of 3 records were unreadable and have no row in features-00000-of-00001.parquet"
    assert words in caplog.text
    caplog.clear()
    (path,) = dinojax.embed(str(tmp_path / "images"), model, folder, image_px=32, batch_size=2)
    assert f"{words}; once they are repaired, delete these files and _about.json" in caplog.text
    for name in ("a", "b"):
        shutil.copy(tmp_path / "images" / "aa.png", tmp_path / "images" / f"{name}.jpg")
    for one in (path, folder / "_about.json"):
        one.unlink()
    caplog.clear()
    dinojax.embed(str(tmp_path / "images"), model, folder, image_px=32, batch_size=2)
    assert len(pq.read_table(folder)) == 3 and "no row" not in caplog.text


@pytest.mark.parametrize("format", ["parquet", "array_record"])
def test_no_readable_record(model, tmp_path, format):
    (tmp_path / "images").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"none of 3 records could be read: .*out holds no row"
        ):
            dinojax.embed(
                str(tmp_path / "images"),
                model,
                tmp_path / "out",
                **{"image_px": 32, "shard": 2, "format": format},
            )


@pytest.mark.parametrize("format", ["parquet", "array_record"])
def test_a_file_of_unreadable_records_alone(model, tmp_path, format):
    """Has no rows, and the columns of the others; the next file is written."""
    from images import encode

    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(b"no image")
    (tmp_path / "images" / "c.png").write_bytes(encode(np.zeros((40, 40, 3), np.uint8), "PNG"))
    options = {"features": ("cls", "patches"), "image_px": 32, "shard": 2, "format": format}
    empty, full = dinojax.embed(str(tmp_path / "images"), model, tmp_path / "out", **options)
    if format == "parquet":
        assert pq.read_table(empty).num_rows == 0
        assert pq.read_schema(empty) == pq.read_schema(full)
        assert pq.read_table(tmp_path / "out").to_pydict()["id"] == ["c.png"]
    else:
        records = [
            array_record_module.ArrayRecordReader(str(p)).num_records() for p in (empty, full)
        ]
        assert records == [0, 1]


def test_a_folder_is_of_one_precision(model, tmp_path):
    """The parameters are the same: only what is computed with them differs."""
    dinojax.embed("scenes:4", model, tmp_path, **OPTIONS)
    for name, words in (("bfloat16", "compute was"), ("reference", "compute was .*rope was")):
        other = Model(
            model.name,
            model.backbone.clone(precision=POLICIES[name]),
            *(model.images, model.params, make_mesh(1, 1, devices=jax.devices()[:1])),
        )
        with pytest.raises(ValueError, match=f"holds other features: {words}"):
            dinojax.embed("scenes:4", other, tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": ("clss",)}, "'clss' is unknown; use 'cls'"),
        ({"features": ()}, "features is empty"),
        ({"features": "cls"}, r"features='cls' is one text; give names, as features=\('cls',\)"),
        ({"format": "csv"}, "format='csv' is unknown; use one of parquet, array_record"),
        ({"image_px": 40}, "40 is not a multiple of 16, .*; use 32 or 48"),
        ({"shard": 0}, "shard=0 must be at least 1"),
    ],
)
def test_what_is_refused(model, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        dinojax.embed("scenes:4", model, tmp_path, **options)


def test_features_that_a_model_has_not(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        add_presets(patch)
        without = small_model("random:small14")
    with pytest.raises(ValueError, match=r"features=.*: random:small14 has no registers; leave it"):
        dinojax.embed("scenes:4", without, tmp_path, features=("cls", "registers"), image_px=28)
    assert not list(tmp_path.iterdir())
