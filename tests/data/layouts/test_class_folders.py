"""ImageNet's folders, with and without the reassessed labels, as miniatures."""

import json

import numpy as np
import pytest
from images import encode, write_folder

from dinojax.data.layouts.table import LAYOUTS, open_layout

IDS = ("n01440764", "n01443537", "n01484850")
PIXEL = encode(np.zeros((4, 4, 3), np.uint8))


def write(root, *, val_ids=IDS):
    """Two training images per class; validation images 1, 2, 3 of classes 2, 0, 1."""
    files = {f"train/{name}/{name}_{i}.JPEG": PIXEL for name in IDS for i in (7, 18)}
    for number, label in ((1, 2), (2, 0), (3, 1)):
        files[f"val/{val_ids[label]}/ILSVRC2012_val_{number:08}.JPEG"] = PIXEL
    return write_folder(root, files)


def test_imagenet(tmp_path):
    records = open_layout("class_folders", str(write(tmp_path)))
    assert records.train.class_names == records.test.class_names == list(IDS)
    assert [records.train[i].label for i in range(6)] == [0, 0, 1, 1, 2, 2]
    found = {records.test.record_id(i): records.test[i].label for i in range(3)}
    assert found["n01440764/ILSVRC2012_val_00000002.JPEG"] == 0
    assert records.accepted is None


def test_folders_of_other_classes(tmp_path):
    """Their labels would number other things."""
    write(tmp_path, val_ids=("n01440764", "n01443537", "n09999999"))
    with pytest.raises(ValueError, match=r"which must be the same, unlike \['n01484850', 'n099"):
        open_layout("class_folders", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="elsewhere/train is not a folder"):
        open_layout("class_folders", str(tmp_path / "elsewhere"))


def test_real(tmp_path):
    """By the number in the name, not by the order of files: image 2 has no class that is right."""
    write(tmp_path)
    (tmp_path / "real.json").write_text(json.dumps([[2, 0], [], [1]]))
    records = open_layout("imagenet_real", str(tmp_path))
    found = {records.test.record_id(i)[-13:]: labels for i, labels in enumerate(records.accepted)}
    assert found == {"00000001.JPEG": (2, 0), "00000003.JPEG": (1,)}
    assert len(records.test) == 2 and len(records.train) == 6


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ([[0], [1]], "lists 2 images, and there is one of the number 3"),
        ([[3]] * 3, "has the class 3"),
    ],
)
def test_lists_of_other_images(tmp_path, lists, words):
    write(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"real.json is missing; it is real.json of github"):
        open_layout("imagenet_real", str(tmp_path))
    (tmp_path / "real.json").write_text(json.dumps(lists))
    with pytest.raises(ValueError, match=words):
        open_layout("imagenet_real", str(tmp_path))


def test_images_of_other_names(tmp_path):
    write(tmp_path)
    (tmp_path / "real.json").write_text("[[0], [0], [0]]")
    (tmp_path / "val" / IDS[0] / "cat.JPEG").write_bytes(PIXEL)
    with pytest.raises(ValueError, match=r"'n01440764/cat.JPEG' has no name like ILSVRC2012_val"):
        open_layout("imagenet_real", str(tmp_path))


def test_unknown():
    with pytest.raises(ValueError, match=r"records.layout='imagenet' is unknown; use one of class"):
        open_layout("imagenet", ".")
    assert "class_folders" in LAYOUTS
