"""Maps beside their images on canvases, and which classes they hold."""

import numpy as np
import pytest

from dinojax.data import map_batches as module
from dinojax.data.map_batches import depth_batches, find_classes, map_batches
from dinojax.data.records import Record


class Mapped:
    """Images of 4 + i rows by 6 columns; pixel (y, x) is y, its class 10 + y; one has no map."""

    class_names = None

    def __init__(self, count: int, without: int = -1, broken: int = -1):
        self.count, self.without, self.broken = count, without, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        rows = np.repeat(np.arange(4 + index)[:, None], 6, 1)
        image = np.repeat(rows[..., None], 3, -1).astype(np.uint8)
        return Record(
            image=b"no image" if index == self.broken else image,
            id=self.record_id(index),
            segmentation=None if index == self.without else (10 + rows).astype(np.uint8),
        )

    def record_id(self, index: int) -> str:
        return f"mapped/{index}"


def test_batches():
    first, second = map_batches(Mapped(5, without=1, broken=2), 3, 8)
    assert first["valid"].tolist() == [True, False, False]
    assert second["valid"].tolist() == [True, True, False]
    assert first["size"].tolist() == [[4, 6], [8, 8], [8, 8]]
    for batch, slot, rows in ((first, 0, 4), (second, 0, 7), (second, 1, 8)):
        image, map = batch["canvas"][slot], batch["segmentation"][slot]
        assert (map[:rows, :6] == 10 + image[:rows, :6, 0]).all()
        assert map[rows - 1, 5] == 10 + rows - 1
        assert (map[rows:] == -1).all() and (map[:, 6:] == -1).all()
    assert (first["segmentation"][1:] == -1).all()


def test_what_is_left_out_is_told(caplog):
    list(map_batches(Mapped(5, without=1, broken=2), 3, 8))
    assert "2 of 5 records without a readable image and a segmentation map" in caplog.text
    with pytest.raises(ValueError, match="none of 1 records has a readable image and a segm"):
        list(map_batches(Mapped(1, without=0), 3, 8))


def test_larger_than_the_canvas():
    """Image and map shrink alike, the map to numbers that are in it."""
    (batch,) = map_batches(Mapped(9), 9, 6)
    assert batch["size"][8].tolist() == [6, 3]
    map = batch["segmentation"][8, :6, :3]
    assert map[:, 0].tolist() == [11, 13, 15, 17, 19, 21]  # the row under each middle
    assert (np.abs(batch["canvas"][8, :6, :3, 0] + 10.0 - map) <= 1).all()


def test_classes(monkeypatch):
    assert find_classes(Mapped(3, without=2)) == [10, 11, 12, 13, 14]
    assert find_classes(Mapped(1, without=0)) == []
    monkeypatch.setattr(module, "MOST_CLASSES", 5)
    with pytest.raises(ValueError, match="record 'mapped/2' hold 6 different numbers, more than 5"):
        find_classes(Mapped(3))


def test_no_batch():
    with pytest.raises(ValueError, match="batch=0 must be at least 1"):
        map_batches(Mapped(1), 0, 8)


class Deep(Mapped):
    """The same with a depth of y + 1/4 metres instead."""

    def __getitem__(self, index: int) -> Record:
        record = super().__getitem__(index)
        assert isinstance(record.image, np.ndarray)
        depth = record.image[..., 0] + np.float32(0.25)
        return Record(record.image, record.id, depth=None if index == self.without else depth)


def test_depth():
    """Float metres, 0 beyond the image and where there are none."""
    (batch,) = depth_batches(Deep(2, without=1), 3, 8)
    assert batch["valid"].tolist() == [True, False, False]
    expected = np.zeros((3, 8, 8), np.float32)
    expected[0, :4, :6] = np.arange(4)[:, None] + 0.25
    np.testing.assert_array_equal(batch["depth"], expected)
    with pytest.raises(ValueError, match="none of 2 records has a readable image and a depth map"):
        list(depth_batches(Mapped(2), 2, 8))
