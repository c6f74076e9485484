"""TIFF: bands of any number, layout and depth; what Pillow reads and what it must not."""

import io
import struct

import numpy as np
import pytest
from images import as_tiff, encode, smooth
from PIL import ExifTags, Image

from dinojax.data import decode, tiff
from dinojax.data.channels import BACKGROUND
from dinojax.data.decode import decode_image, read_image
from dinojax.data.exif import TURNS
from dinojax.data.records import Record


def bands(count: int, dtype: type = np.uint8) -> np.ndarray:
    samples = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (20, 30, count), dtype)
    return samples.astype(dtype)


LAYOUTS = {
    "interleaved": {},
    "planes": {"planarconfig": "separate"},
    "big endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True},
    "strips": {"rowsperstrip": 7},
    "deflate": {"compression": "zlib", "rowsperstrip": 7},
    "tiles": {"tile": (16, 16), "compression": "zlib", "predictor": True},
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("count, dtype", [(2, np.uint8), (4, np.uint8), (13, np.uint16)])
def test_every_band_arrives(layout, count, dtype):
    samples = bands(count, dtype)
    planes = np.moveaxis(samples, -1, 0) if layout == "planes" else samples
    image = decode_image(as_tiff(planes, **LAYOUTS[layout]), "a", channels=count)
    expected = samples >> 8 if dtype == np.uint16 else samples
    np.testing.assert_array_equal(image, expected)


def test_bands_beside_rgb_are_never_dropped():
    """Pillow opens this image as RGB."""
    samples = bands(5)
    data = as_tiff(samples, photometric="rgb", extrasamples=(0, 0))
    assert Image.open(io.BytesIO(data)).mode == "RGB"
    np.testing.assert_array_equal(decode_image(data, "a", channels=5), samples)
    with pytest.raises(ValueError, match=r"record 'a' .*channels found: 5, wanted: 3"):
        decode_image(data, "a")


def test_declared_alpha_is_transparency_for_rgb_and_a_band_for_four_channels():
    samples = bands(4)
    samples[..., 3] = 0
    data = as_tiff(samples, photometric="rgb", extrasamples=(2,))
    assert (decode_image(data, "a") == BACKGROUND).all()
    np.testing.assert_array_equal(decode_image(data, "a", channels=4), samples)
    undeclared = as_tiff(samples, photometric="rgb", extrasamples=(0,))
    with pytest.raises(ValueError, match="channels found: 4, wanted: 3"):
        decode_image(undeclared, "a")


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_colour_spaces_as_pillow_reads_them(mode, compression):
    image = Image.fromarray(smooth(24, 16)).convert(mode)
    data = encode(image, "TIFF", compression=compression)
    for wanted, channels in (("RGB", 3), ("L", 1)):
        expected = np.asarray(image.convert(wanted)).reshape(24, 16, channels)
        decoded = decode_image(data, "a", channels=channels)
        # libtiff's arithmetic of YCbCr is not Pillow's.
        np.testing.assert_allclose(decoded, expected, atol=1 if mode == "YCbCr" else 0, rtol=0)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_of_either_polarity(photometric, dtype):
    grey = bands(1, dtype)[..., 0]
    white_is_zero = photometric == "miniswhite"
    data = as_tiff(~grey if white_is_zero else grey, photometric=photometric, planarconfig=None)
    levels = (grey >> 8 if dtype == np.uint16 else grey)[..., None]
    np.testing.assert_array_equal(decode_image(data, "a", channels=1), levels)
    np.testing.assert_array_equal(decode_image(data, "a"), levels.repeat(3, -1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_rgb_in_any_layout(layout, dtype):
    """Of 16 bits in planes Pillow would make something else."""
    samples = bands(3, dtype)
    planes = np.moveaxis(samples, -1, 0) if layout == "planes" else samples
    image = decode_image(as_tiff(planes, photometric="rgb", **LAYOUTS[layout]), "a")
    np.testing.assert_array_equal(image, samples >> 8 if dtype == np.uint16 else samples)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_of_bands(orientation):
    samples = bands(5)
    tag = (ExifTags.Base.Orientation, "H", 1, orientation, True)
    image = decode_image(as_tiff(samples, extratags=[tag]), "a", channels=5)
    np.testing.assert_array_equal(image, TURNS[orientation](samples))


def test_bands_shrink_one_by_one():
    samples = np.random.default_rng(0).integers(0, 256, (60, 40, 4), np.uint8)
    small = read_image(Record(image=as_tiff(samples), id="a"), 12, 4)
    expected = samples.reshape(12, 5, 8, 5, 4).mean((1, 3))
    assert small.shape == (12, 8, 4)
    assert np.abs(small - expected).max() <= 1.0


@pytest.mark.parametrize("layout", ["interleaved", "strips", "deflate", "tiles"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_truncated_files_are_refused(layout, share):
    """tifffile alone would fill some of the missing strips with black."""
    data = as_tiff(bands(5), **LAYOUTS[layout])
    with pytest.raises(ValueError, match="record 'a' cannot be decoded"):
        decode_image(data[: int(share * len(data))], "a", channels=5)


def test_missing_strips_are_refused():
    data = as_tiff(bands(5), rowsperstrip=5)
    sizes = struct.pack("<4H", *[5 * 30 * 5] * 4)
    gap = sizes[:2] + bytes(2) + sizes[4:]
    with pytest.raises(ValueError, match="the file is truncated"):
        decode_image(data.replace(sizes, gap), "a", channels=5)


@pytest.mark.parametrize(
    "samples, options, reason",
    [
        (bands(5).astype(np.float32), {}, "it holds float32 samples; store uint8 or uint16"),
        (bands(5).astype(np.uint32), {}, "it holds uint32 samples"),
        (bands(5).astype(np.int16), {}, "it holds int16 samples"),
        (bands(1)[..., 0].astype(np.float32), {"planarconfig": None}, "it holds float32 samples"),
        (
            bands(5),
            {"compression": "lzma"},
            "its compression .*LZMA.* is not supported; use Deflate",
        ),
    ],
)
def test_unsuitable_samples_are_refused(samples, options, reason):
    for channels in (1, 5):
        with pytest.raises(ValueError, match=f"record 'a' cannot be decoded: {reason}"):
            decode_image(as_tiff(samples, **options), "a", channels=channels)


def test_sizes_in_the_header_must_be_numbers():
    data = as_tiff(bands(5))
    listed = data.replace(struct.pack("<HHI", 256, 4, 1), struct.pack("<HHI", 256, 4, 9))
    assert listed != data
    with pytest.raises(ValueError, match="its header is damaged"):
        decode_image(listed, "a", channels=5)


def test_limit_is_checked_before_any_pixel(monkeypatch):
    data = as_tiff(bands(5), compression="zlib")
    monkeypatch.setattr(decode, "MAX_PIXELS", 20 * 30 * 5 // 3)
    assert decode_image(data, "a", channels=5).shape == (20, 30, 5)
    monkeypatch.setattr(decode, "MAX_PIXELS", 20 * 30 * 5 // 3 - 1)
    with pytest.raises(ValueError, match="30x20 pixels of 5 channels exceed the limit of 599"):
        decode_image(data, "a", channels=5)


def test_limit_holds_for_tiles(monkeypatch):
    data = as_tiff(bands(5), tile=(64, 64), compression="zlib")
    monkeypatch.setattr(decode, "MAX_PIXELS", 2000)
    with pytest.raises(ValueError, match="64x64 pixels of 5 channels exceed the limit of 1200"):
        decode_image(data, "a", channels=5)


def test_strips_that_inflate_beyond_their_share_are_refused(monkeypatch):
    bomb = as_tiff(np.zeros((200, 300, 5), np.uint8), compression="zlib", rowsperstrip=200)
    narrow = bomb.replace(struct.pack("<HHII", 257, 4, 1, 200), struct.pack("<HHII", 257, 4, 1, 2))
    assert narrow != bomb
    monkeypatch.setattr(tiff, "HARMLESS_BYTES", 10_000)
    with pytest.raises(ValueError, match="a strip inflates to more than its share"):
        decode_image(narrow, "a", channels=5)
    assert decode_image(bomb, "a", channels=5).shape == (200, 300, 5)
