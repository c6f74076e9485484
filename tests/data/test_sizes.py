"""Sizes by header: those that decoding finds, without it."""

import numpy as np
import pytest
from images import ArraySource, as_npy, as_tiff, bands, encode, smooth
from PIL import Image

from dinojax.data.decode import decode_image
from dinojax.data.records import Record
from dinojax.data.sizes import Measured, stored_size


def size(image) -> tuple[int, int]:
    return stored_size(Record(image=image, id="a"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_upright_as_decoding_has_it(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(smooth(20, 12), format, exif=exif)
    assert size(data) == decode_image(data, "a").shape[:2]
    assert size(data) == ((20, 12) if orientation < 5 else (12, 20))


def test_other_kinds():
    assert size(encode(smooth(700, 900))) == (700, 900)  # larger than any canvas
    assert size(encode(Image.new("CMYK", (30, 20)))) == (20, 30)
    assert size(as_tiff(bands(7, 9, 5))) == (7, 9)
    assert size(as_npy(bands(7, 9, 5))) == (7, 9)
    assert size(smooth(7, 9)) == (7, 9)


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff", b"II*\0", b"\x93NUMPY"])
def test_damaged_headers(data):
    with pytest.raises(ValueError, match=r"the header of record 'a' cannot be read"):
        size(data)


def test_sizes_are_noted_as_records_are_read():
    class Damaged(ArraySource):
        def __getitem__(self, index):
            return Record(image=b"", id="x") if index == 3 else super().__getitem__(index)

    source = Measured(Damaged(5))
    assert [source[index].id for index in (1, 3, 4)] == ["array/1", "x", "array/4"]
    np.testing.assert_array_equal(source.sizes, [[0, 0], [3, 3], [0, 0], [0, 0], [6, 3]])
    assert (len(source), source.record_id(2), source.class_names) == (5, "array/2", ["even", "odd"])
