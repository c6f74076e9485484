"""What `prepare` makes of a record: what stays as it is, what becomes smaller, and how maps go."""

import io

import numpy as np
import pytest
from datasets import npy
from images import as_npy, as_tiff, bands, encode, smooth
from PIL import Image, UnidentifiedImageError

from dinojax.data.decode import decode_image
from dinojax.data.maps import decode_record
from dinojax.data.records import Record
from dinojax.data.stored import Encoding, encode_record


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def turned(orientation: int, height: int, width: int, format: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(smooth(height, width), format, exif=exif)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("max_side_px", [0, 64, 200])
def test_small_files_stay_byte_for_byte(format, max_side_px):
    data = turned(6, 40, 64, format)
    stored = encode_record(Record(data, "x"), Encoding(max_side_px, 90, 3))
    assert stored.record.image == data and not stored.shrunk
    assert stored.pixels.shape == (64, 40, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize(("height", "width"), [(80, 128), (81, 65), (64, 300)])
def test_large_files_become_small_upright_jpeg(format, height, width):
    data = turned(6, height, width, format)
    stored = encode_record(Record(data, "x"), Encoding(64, 95, 3))
    image = opened(stored.record.image)
    assert stored.shrunk and image.format == "JPEG" and max(image.size) == 64
    # Stored lying, shown standing, or the other way round.
    assert not image.getexif() and (image.height > image.width) == (width > height)
    decoded = decode_image(stored.record.image, "x").astype(int)
    assert np.abs(decoded - stored.pixels).mean() < 2
    with Image.open(io.BytesIO(data)) as full:
        area = full.transpose(Image.Transpose.ROTATE_270).resize(image.size, Image.Resampling.BOX)
    assert np.abs(decoded - np.asarray(area)).mean() < 4


def test_formats_that_pillow_does_not_know(monkeypatch):
    fits, long = encode(smooth(64, 50)), encode(smooth(128, 50))
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_, **__: (_ for _ in ()).throw(UnidentifiedImageError))
        assert encode_record(Record(fits, "x"), Encoding(64, 95, 3)).record.image == fits
        stored = encode_record(Record(long, "x"), Encoding(64, 95, 3))
    assert stored.shrunk and opened(stored.record.image).size == (25, 64)


def test_quality():
    record = Record(encode(smooth(200, 200)), "x")
    low, high = (len(encode_record(record, Encoding(100, q, 3)).record.image) for q in (30, 95))
    assert low < 0.7 * high


def test_arrays_become_png_unless_they_are_large():
    image = smooth(20, 30)
    stored = encode_record(Record(image, "x", 3), Encoding(64, 95, 3))
    assert opened(stored.record.image).format == "PNG" and stored.record.label == 3
    assert np.array_equal(decode_image(stored.record.image, "x"), image)
    assert (
        opened(encode_record(Record(image, "x"), Encoding(16, 95, 3)).record.image).format == "JPEG"
    )


FILES = {1: "PNG", 2: "NPY", 3: "PNG", 4: "NPY", 5: "NPY"}


@pytest.mark.parametrize(("channels", "format"), FILES.items())
def test_arrays_of_any_channels_stay_exact(channels, format):
    image = bands(20, 30, channels)
    stored = encode_record(Record(image, "x"), Encoding(30, 95, channels))
    data = stored.record.image
    assert not stored.shrunk and np.array_equal(stored.pixels, image)
    assert np.array_equal(decode_image(data, "x", channels=channels), image)
    if format == "NPY":
        assert np.array_equal(np.load(io.BytesIO(data)), image)
    else:
        assert opened(data).format == format and opened(data).mode == {1: "L", 3: "RGB"}[channels]


def as_any_tiff(image: np.ndarray) -> bytes:
    return encode(image[..., 0], "TIFF") if image.shape[-1] == 1 else as_tiff(image)


@pytest.mark.parametrize("channels", FILES)
@pytest.mark.parametrize("write", [np.asarray, as_npy, as_any_tiff])
def test_large_images_of_any_channels_become_small(channels, write):
    image = bands(40, 30, channels)
    stored = encode_record(Record(write(image), "x"), Encoding(20, 95, channels))
    assert stored.shrunk
    areas = image.reshape(20, 2, 15, 2, channels).mean((1, 3))
    decoded = decode_image(stored.record.image, "x", channels=channels)
    assert decoded.shape == (20, 15, channels)
    if channels in (1, 3):
        assert opened(stored.record.image).mode == {1: "L", 3: "RGB"}[channels]
        assert opened(stored.record.image).format == "JPEG"
        assert np.abs(decoded - areas).mean() < 4
    else:
        assert np.array_equal(decoded, stored.pixels) and np.abs(decoded - areas).max() <= 0.5


def test_grey_and_rgb_stand_in_for_each_other():
    grey, colour = bands(8, 8, 1), smooth(8, 8)
    stored = encode_record(Record(grey, "x"), Encoding(8, 95, 3))
    assert opened(stored.record.image).mode == "L"
    assert np.array_equal(stored.pixels, np.repeat(grey, 3, -1))
    data = encode(colour)
    stored = encode_record(Record(data, "x"), Encoding(8, 95, 1))
    assert stored.record.image == data
    assert np.array_equal(stored.pixels, decode_image(data, "x", channels=1))
    assert opened(encode_record(Record(data, "x"), Encoding(4, 95, 1)).record.image).mode == "L"


@pytest.mark.parametrize("write", [np.asarray, as_npy, as_tiff])
def test_images_of_other_channels(write):
    record = Record(write(bands(8, 8, 5)), "a/x")
    with pytest.raises(
        ValueError,
        match=r"record 'a/x' .*channels found: 5, wanted: 3; use student.in_chans=5 "
        r"\(dinojax.prepare: --channels=5\)$",
    ):
        encode_record(record, Encoding(64, 95, 3))


@pytest.mark.parametrize("max_side_px", [0, 16])
def test_maps_show_the_same_as_before(max_side_px):
    classes = (np.arange(20 * 32).reshape(20, 32) // 80).astype(np.uint8)
    depth = classes + np.float32(0.5)
    data = turned(8, 20, 32)
    record = Record(data, "x", segmentation=encode(classes, "PNG"), depth=npy(depth))
    stored = encode_record(record, Encoding(max_side_px, 95, 3))
    assert stored.classes == 8
    before, after = decode_record(record, 16), decode_record(stored.record, 16)
    assert np.array_equal(before.segmentation, after.segmentation)
    assert np.array_equal(before.depth, after.depth)
    assert opened(stored.record.segmentation).mode == "L"
    assert opened(stored.record.depth).mode == "RGBA"  # TFDS's float32


def test_many_classes_take_16_bits():
    classes = np.arange(12, dtype=np.int64).reshape(3, 4) + 60_000
    stored = encode_record(Record(smooth(3, 4), "x", segmentation=classes), Encoding(0, 95, 3))
    assert np.array_equal(decode_record(stored.record, 9).segmentation, classes)
    assert stored.classes == 60_012


@pytest.mark.parametrize("wrong", [-1, 2**16])
def test_classes_that_no_png_holds(wrong):
    record = Record(smooth(3, 4), "x", segmentation=np.full((3, 4), wrong))
    with pytest.raises(ValueError, match=rf"record 'x' has classes {wrong}..{wrong} in its seg"):
        encode_record(record, Encoding(0, 95, 3))
