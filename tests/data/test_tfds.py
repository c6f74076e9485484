"""TFDS without TensorFlow: names, splits, features, and datasets that are not there."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from datasets import COUNT, build_tfds

from dinojax.data.maps import decode_record
from dinojax.data.open import open_source
from dinojax.data.tfds import SPEC, TfdsSource, _find_fields


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    build_tfds(path)
    return path


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("cifar10:train", ("cifar10", "train", None)),
        ("cifar10:train@/data", ("cifar10", "train", "/data")),
        ("imagenet2012:5.1.0:train[:1%]@/a:b", ("imagenet2012:5.1.0", "train[:1%]", "/a:b")),
        ("coco/2017:train+validation", ("coco/2017", "train+validation", None)),
        ("x/y:3.*.*:test[10:20]", ("x/y:3.*.*", "test[10:20]", None)),
        ("/data/x/1.0.0:train[25%:]", ("/data/x/1.0.0", "train[25%:]", None)),
    ],
)
def test_grammar(spec, parts):
    match = SPEC.fullmatch(spec)
    assert match is not None
    assert (match["name"], match["split"], match["data_dir"]) == parts


def test_splits_and_ids(data_dir):
    def ids(split):
        source = open_source(f"tfds:greys:{split}@{data_dir}")
        return [source.record_id(i) for i in range(len(source))]

    train = [f"greys-train.array_record-00000-of-00001__{i}" for i in range(COUNT)]
    test = [f"greys-test.array_record-00000-of-00001__{i}" for i in range(2)]
    assert ids("train") == train and ids("test") == test
    assert ids("train[50%:]") == train[3:]  # a record keeps its id in any split
    assert ids("train[1:3]+test") == train[1:3] + test


def test_three_ways_to_say_where(data_dir):
    specs = (
        (f"tfds:greys:train@{data_dir}", {}),
        ("tfds:greys:train", {"data_dir": str(data_dir)}),
        (f"tfds:greys:1.2.0:train@{data_dir}", {}),
        (f"tfds:{data_dir}/greys/1.2.0:train", {}),
    )
    for spec, options in specs:
        assert len(open_source(spec, **options)) == COUNT


def test_reads_the_same_as_tfds(data_dir):
    theirs = tfds.builder_from_directory(data_dir / "greys" / "1.2.0").as_data_source("train")
    ours = open_source(f"tfds:greys:train@{data_dir}")
    for i in range(COUNT):
        image, segmentation, depth = decode_record(ours[i], 64)
        assert ours[i].label == theirs[i]["label"]
        assert np.array_equal(image, theirs[i]["image"])
        assert np.array_equal(segmentation, theirs[i]["segmentation_mask"][..., 0])
        assert np.array_equal(depth, theirs[i]["depth"])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("greys", r"'greys' is not NAME\[/CONFIG\]\[:VERSION\]:SPLIT\[@DATA_DIR\]; write e.g."),
        ("greys:val@{}", r"names no split \(Unknown split 'val'\); use one of \['test', 'train'\]"),
        ("greys:train[:x%]@{}", r"names no split \(Error parsing .*; use one of"),
        ("greys:train[:0]@{}", r"greys:train\[:0\]@.* holds no records; use one of"),
        ("blues:train@{}", r"tfds:blues cannot be opened \(Could not .*tfds.builder\('blues', d"),
        ("greys:9.9.9:train@{}", r"tfds:greys:9.9.9 cannot be opened"),
        ("greys/small:train@{}", r"tfds:greys/small cannot be opened"),
        ("{}/greys:train", r"greys holds no dataset_info.json; give the folder of one version"),
    ],
)
def test_datasets_that_are_not_there(data_dir, spec, words):
    with pytest.raises(ValueError, match=words):
        TfdsSource(spec.format(data_dir))


def test_missing_shard(tmp_path):
    spec = build_tfds(tmp_path)
    (tmp_path / "greys" / "1.2.0" / "greys-train.array_record-00000-of-00001").unlink()
    with pytest.raises(FileNotFoundError, match=r"greys-train.* is missing; prepare tfds:greys"):
        open_source(spec)


def test_datasets_that_are_not_array_record(tmp_path):
    spec = build_tfds(tmp_path)
    path = tmp_path / "greys" / "1.2.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(
        ValueError, match=r"\(File format array_record does not match .*file_format='array_record'"
    ):
        open_source(spec)


IMAGE, GREY = tfds.features.Image(), tfds.features.Image(shape=(None, None, 1))
NAMED = tfds.features.ClassLabel(names=["a", "b"])


@pytest.mark.parametrize(
    ("features", "fields", "names"),
    [
        ({"image": IMAGE, "other": IMAGE}, ("image", None, None, None), None),
        ({"photo": IMAGE, "label": NAMED}, ("photo", "label", None, None), ["a", "b"]),
        ({"photo": IMAGE, "mask": GREY}, ("photo", None, None, None), None),
        ({"digit": GREY, "fine": NAMED}, ("digit", "fine", None, None), ["a", "b"]),
        ({"image": IMAGE, "fine": NAMED, "coarse": NAMED}, ("image", None, None, None), None),
        (
            {"image": IMAGE, "segmentation_label": GREY, "depth_map": GREY},
            ("image", None, "segmentation_label", "depth_map"),
            None,
        ),
        (
            {"image": IMAGE, "label": tfds.features.ClassLabel()},
            ("image", "label", None, None),
            None,
        ),
    ],
)
def test_which_features_are_read(features, fields, names):
    found, class_names = _find_fields(tfds.features.FeaturesDict(features), "x")
    assert (found.image, found.label, found.segmentation, found.depth) == fields
    assert class_names == names


@pytest.mark.parametrize("features", [{"label": NAMED}, {"left": IMAGE, "right": IMAGE}])
def test_no_single_image(features):
    with pytest.raises(ValueError, match=r"tfds:x has no single image feature; it has \["):
        _find_fields(tfds.features.FeaturesDict(features), "x")
