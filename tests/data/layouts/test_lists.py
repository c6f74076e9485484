"""Datasets whose files are listed: iNaturalist 2018 and Places205, as miniatures."""

import json

import numpy as np
import pytest
from images import encode, write_folder

from dinojax.data.layouts.table import open_layout

PIXEL = encode(np.zeros((4, 4, 3), np.uint8))


def coco(files: dict[str, int]) -> str:
    """Ids of images are no places; annotations come in another order."""
    images = [{"id": 100 + i, "file_name": name} for i, name in enumerate(files)]
    found = [
        {"id": i, "image_id": 100 + i, "category_id": files[name]} for i, name in enumerate(files)
    ]
    return json.dumps({"images": images, "annotations": found[::-1]})


def test_inat2018(tmp_path):
    train = {f"train_val2018/Plantae/{c}/{i}.jpg": c for i, c in enumerate((7477, 12, 7477))}
    val = {"train_val2018/Aves/3/9.jpg": 3, "train_val2018/Aves/12/8.jpg": 12}
    write_folder(tmp_path, dict.fromkeys([*train, *val], PIXEL))
    (tmp_path / "train2018.json").write_text(coco(train))
    with pytest.raises(FileNotFoundError, match=r"val2018.json is missing; download it"):
        open_layout("inat2018", str(tmp_path))
    (tmp_path / "val2018.json").write_text(coco(val))
    records = open_layout("inat2018", str(tmp_path))
    assert records.train.class_names == records.test.class_names == ["3", "12", "7477"]
    assert [records.train[i].label for i in range(3)] == [2, 1, 2]
    assert {records.test[i].id: records.test[i].label for i in range(2)} == {
        "train_val2018/Aves/3/9.jpg": 0,
        "train_val2018/Aves/12/8.jpg": 1,
    }
    (tmp_path / "val2018.json").write_text('{"images": [{"id": 1, "file_name": "a"}]}')
    with pytest.raises(ValueError, match=r"val2018.json is no list of images with categories"):
        open_layout("inat2018", str(tmp_path))


def test_places205(tmp_path):
    write_folder(
        tmp_path,
        {f"images256/a/abbey/{i}.jpg": PIXEL for i in range(3)} | {"images256/z/b.jpg": PIXEL},
    )
    (tmp_path / "train_places205.csv").write_text("a/abbey/2.jpg 0\nz/b.jpg 1\na/abbey/0.jpg 0\n")
    (tmp_path / "val_places205.csv").write_text("a/abbey/1.jpg 0\n")
    records = open_layout("places205", str(tmp_path))
    assert [records.train[i].id for i in range(3)] == ["a/abbey/2.jpg", "z/b.jpg", "a/abbey/0.jpg"]
    assert [records.train[i].label for i in range(3)] == [0, 1, 0]
    assert records.test[0].label == 0 and records.test.class_names == ["0", "1"]
    (tmp_path / "val_places205.csv").write_text("a/abbey/1.jpg 0\na/abbey/2.jpg\n")
    with pytest.raises(ValueError, match=r"val_places205.csv, line 2: 'a/abbey/2.jpg' is not"):
        open_layout("places205", str(tmp_path))
    (tmp_path / "val_places205.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"val_places205.csv is missing; unpack"):
        open_layout("places205", str(tmp_path))
