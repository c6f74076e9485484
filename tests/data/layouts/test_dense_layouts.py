"""Published dense datasets in miniature, laid out as on disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinojax.data.eval_records import check_needs
from dinojax.data.layouts.table import open_layout
from dinojax.data.maps import decode_record
from dinojax.data.sequences import find_sequences

RNG = np.random.default_rng(0)


def write_image(path: Path, hw=(12, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (*hw, 3), np.uint8)).save(path)


def write_map(path: Path, map: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(map)
    if palette:
        image.putpalette([c for i in range(256) for c in (i, 255 - i, 7 * i % 256)])
    image.save(path)


def classes(number: int) -> np.ndarray:
    map = np.zeros((12, 16), np.uint8)
    map[3:] = number
    return map


def ids(source) -> list[str]:
    return [source.record_id(i) for i in range(len(source))]


def test_ade20k(tmp_path):
    for split, numbers in (("training", (150, 3)), ("validation", (7,))):
        for i, number in enumerate(numbers, 1):
            name = f"ADE_{'train' if split == 'training' else 'val'}_{i:08d}"
            write_image(tmp_path / f"images/{split}/{name}.jpg")
            write_map(tmp_path / f"annotations/{split}/{name}.png", classes(number))
    (tmp_path / "images/training/.DS_Store").write_bytes(b"")
    records = open_layout("ade20k", str(tmp_path))
    assert ids(records.train)[0] == "images/training/ADE_train_00000001.jpg"
    assert (len(records.train), len(records.test)) == (2, 1)
    pixels = decode_record(records.train[0], 64)
    np.testing.assert_array_equal(pixels.segmentation, classes(150))
    check_needs(records, {"segmentation"}, "segmentation")
    (tmp_path / "annotations/training/ADE_train_00000002.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images have no map .*'ADE_train_00000002"):
        open_layout("ade20k", str(tmp_path))


def test_camvid(tmp_path):
    for split, video in (("train", "0001TP"), ("val", "0016E5")):
        for frame in (6690, 6720):
            write_image(tmp_path / f"{split}/images/{video}_00{frame}.jpg")
            write_map(tmp_path / f"{split}/labels/{video}_00{frame}.png", classes(11))
    records = open_layout("camvid", str(tmp_path))
    assert find_sequences(records.test) == {"val/images/0016E5_": [0, 1]}
    assert records.train[1].segmentation is not None
    with pytest.raises(FileNotFoundError, match="images/training is missing"):
        open_layout("ade20k", str(tmp_path))


def test_nyuv2(tmp_path):
    depth = np.full((12, 16), 2500, np.uint16)
    depth[0] = 0
    lines = {
        "train": ["/kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png 518.8579"],
        "test": [
            "bathroom/rgb_00045.jpg bathroom/sync_depth_00045.png 518.8579",
            "bathroom/rgb_00046.jpg None 518.8579",
        ],
    }
    for split, listed in lines.items():
        (tmp_path / f"nyu_{split}.txt").write_text("\n".join(listed) + "\n")
        image, map, _ = listed[0].split()
        write_image(tmp_path / image.lstrip("/"))
        write_map(tmp_path / map.lstrip("/"), depth)
    records = open_layout("nyuv2", str(tmp_path))
    assert ids(records.train) == ["kitchen_0028b/rgb_00045.jpg"]
    assert ids(records.test) == ["bathroom/rgb_00045.jpg"]
    metres = decode_record(records.test[0], 64).depth
    assert metres[0, 0] == 0 and metres[1, 0] == pytest.approx(2.5) and metres.dtype == np.float32
    check_needs(records, {"depth"}, "depth")
    (tmp_path / "bathroom/rgb_00045.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 2 files, such as 'bathroom/rgb_00045"):
        open_layout("nyuv2", str(tmp_path))
    (tmp_path / "nyu_test.txt").write_text("bathroom/rgb_00045.jpg\n")
    with pytest.raises(ValueError, match=r"line 1: .* is not 'IMAGE DEPTH FOCAL'"):
        open_layout("nyuv2", str(tmp_path))


def test_davis(tmp_path):
    """Only the videos that are listed; objects are the indices of the palette."""
    for video in ("bike-packing", "blackswan", "of-the-train-split"):
        for frame in range(3):
            write_image(tmp_path / f"JPEGImages/480p/{video}/{frame:05d}.jpg")
            map = tmp_path / f"Annotations/480p/{video}/{frame:05d}.png"
            write_map(map, classes(2), palette=True)
    sets = tmp_path / "ImageSets/2017"
    sets.mkdir(parents=True)
    (sets / "val.txt").write_text("bike-packing\nblackswan\n")
    records = open_layout("davis", str(tmp_path))
    assert find_sequences(records.test) == {
        "JPEGImages/480p/bike-packing/": [0, 1, 2],
        "JPEGImages/480p/blackswan/": [3, 4, 5],
    }
    np.testing.assert_array_equal(decode_record(records.test[5], 64).segmentation, classes(2))
    check_needs(records, {"segmentation", "videos"}, "propagation")
    (sets / "val.txt").write_text("")
    with pytest.raises(ValueError, match="has no images with segmentation maps"):
        open_layout("davis", str(tmp_path))
    (sets / "val.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"val\.txt is missing"):
        open_layout("davis", str(tmp_path))
