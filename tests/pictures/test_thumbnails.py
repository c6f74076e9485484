"""Thumbnails: only of the records that are asked for, and never of another one."""

import io

import numpy as np
import pytest
from images import ArraySource, encode, smooth, write_folder
from PIL import Image

from dinojax.data.folder import FolderSource
from dinojax.data.records import Record
from dinojax.data.threads import StorageError
from dinojax.pictures.thumbnails import (
    ABSENT,
    AMBIGUOUS,
    Thumbnail,
    Tile,
    as_html,
    group,
    read_thumbnails,
)


@pytest.fixture
def source(tmp_path):
    files = {"a/wide.png": encode(smooth(40, 80), "PNG"), "a/broken.jpg": b"\xff\xd8 no more"}
    return FolderSource(
        write_folder(tmp_path, files | {"b/small.png": encode(smooth(8, 6), "PNG")})
    )


class Counting(ArraySource):
    def __init__(self, count):
        super().__init__(count)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def image_of(thumbnail):
    assert thumbnail.jpeg is not None
    return Image.open(io.BytesIO(thumbnail.jpeg))


def test_shapes_are_kept(source):
    found = dict(read_thumbnails([source], ["a/wide.png", "b/small.png"], 32))
    for id, size in (("a/wide.png", (32, 16)), ("b/small.png", (6, 8))):
        image = image_of(found[id])
        assert (image.format, image.size) == ("JPEG", size)
    assert found == dict(read_thumbnails([source], ["a/wide.png", "b/small.png"], 32))


def test_no_other_record_is_read():
    source = Counting(50)
    found = dict(read_thumbnails([source], [source.record_id(n) for n in (40, 7)], 16))
    assert source.read == [40, 7] and len(found) == 2


def test_an_id_must_be_of_one_source():
    """Two evaluations may both have an image 0001.jpg: which one was it?"""
    one, other = ArraySource(3), ArraySource(2)
    found = dict(read_thumbnails([one, other], [one.record_id(0), one.record_id(2), "x"], 16))
    assert [t.cause for t in found.values()] == [AMBIGUOUS, "", ABSENT]
    assert [t.jpeg is None for t in found.values()] == [True, False, True]


def test_unreadable(source, monkeypatch):
    (found,) = dict(read_thumbnails([source], ["a/broken.jpg"], 32)).values()
    assert found.jpeg is None and found.cause.startswith("cannot be decoded: ")

    def fails(index):
        raise TimeoutError("the disk sleeps")

    monkeypatch.setattr(FolderSource, "__getitem__", lambda self, index: fails(index))
    with pytest.raises(StorageError, match=r"the disk sleeps"):
        dict(read_thumbnails([source], ["a/wide.png"], 32))


def test_other_channels():
    """The first is shown, in grey."""
    bands = np.stack([np.full((4, 4), value, np.uint8) for value in (200, 0, 0, 0, 0)], -1)

    class Bands(ArraySource):
        def __getitem__(self, index):
            return Record(image=bands, id=self.record_id(index))

    source = Bands(1)
    (found,) = dict(read_thumbnails([source], [source.record_id(0)], 16, channels=5)).values()
    assert abs(np.asarray(image_of(found)).astype(int) - 200).max() <= 1
    (found,) = dict(read_thumbnails([source], [source.record_id(0)], 16)).values()
    assert found.jpeg is None and "5" in found.cause


def test_tiles_in_html():
    id = "<i>&\"x'" + "y" * 40
    there = as_html(Tile(id, "a < b", mark="stays"), Thumbnail(b"jpeg"))
    assert 'class="tile marked"' in there and "<b>stays</b> <span>a &lt; b</span><br>" in there
    assert "<i>" not in there and 'alt="&lt;i&gt;&amp;&quot;x&#x27;yy' in there
    assert "\N{HORIZONTAL ELLIPSIS}" + "y" * 31 + "<" in there
    gone = as_html(Tile("x"), Thumbnail(None, "no <image>"))
    assert 'class="tile"' in gone and "<img" not in gone and ">no &lt;image&gt;<" in gone


def test_groups_take_thumbnails_of_their_source():
    found = {"pool": {"x": Thumbnail(b"of the pool")}, "seeds": {"x": Thumbnail(None, "gone")}}
    text = group("2 & 2", [Tile("x"), Tile("x", of="seeds")], found)
    assert text.count("<img") == 1 and ">gone<" in text and "<h4>2 &amp; 2</h4>" in text
    assert "<h4>" not in group("", [], found)
