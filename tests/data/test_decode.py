"""Decoding: exactness against Pillow, odd formats, orientation, limits, and the canvas."""

import io

import numpy as np
import pytest
from images import encode, smooth
from PIL import ExifTags, Image, ImageOps

from dinojax.data import decode
from dinojax.data.decode import decode_image, fitted_size, read_image, shrink, to_canvas
from dinojax.data.records import Record


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def test_jpeg_equals_pillow():
    data = encode(smooth(45, 61))
    image = decode_image(data, "a")
    assert image.shape == (45, 61, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, pillow(data))


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_lossless_formats_are_exact(format):
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(
        decode_image(encode(smooth(20, 30), format, **options), "a"), smooth(20, 30)
    )


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs_become_rgb(mode):
    data = encode(Image.fromarray(smooth(24, 16)).convert(mode))
    image = decode_image(data, "a")
    assert image.shape == (24, 16, 3)
    np.testing.assert_array_equal(image, pillow(data))


def test_palette_becomes_rgb():
    palette = Image.fromarray(smooth(24, 16)).quantize(16)
    np.testing.assert_array_equal(
        decode_image(encode(palette, "PNG"), "a"), np.asarray(palette.convert("RGB"))
    )


def test_sixteen_bit_grey_keeps_its_high_byte():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    image = decode_image(encode(Image.fromarray(ramp), "PNG"), "a")
    np.testing.assert_array_equal(image, np.repeat((ramp >> 8)[..., None], 3, -1))


def test_transparent_pixels_show_mid_grey():
    rgba = np.dstack([smooth(9, 9), np.full((9, 9), 255, np.uint8)])
    rgba[:3, :, 3] = 0
    rgba[3, :, :] = (255, 255, 255, 127)
    image = decode_image(encode(Image.fromarray(rgba), "PNG"), "a")
    assert (image[:3] == decode.BACKGROUND).all()
    assert np.abs(image[3].astype(int) - 191).max() <= 1
    np.testing.assert_array_equal(image[4:], rgba[4:, :, :3])


def test_transparent_palette_entry_shows_mid_grey():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    decoded = decode_image(encode(image, "PNG", transparency=0), "a")
    assert decoded.tolist() == [[[128, 128, 128], [0, 255, 0]]]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation, format):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(smooth(24, 40), format, exif=exif)
    image = decode_image(data, "a")
    assert image.shape[:2] == ((24, 40) if orientation < 5 else (40, 24))
    np.testing.assert_array_equal(image, pillow(data))


def test_damaged_exif_is_ignored():
    for block in (b"", b"MM", b"MM\0*", b"MM\0*\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09"):
        data = encode(smooth(24, 40), exif=b"Exif\0\0" + block)
        assert decode_image(data, "a").shape == (24, 40, 3)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "the bytes are no JPEG, PNG, WEBP image"),
        (encode(smooth(9, 9), "GIF"), "the bytes are no JPEG, PNG, WEBP image"),
        (encode(smooth(90, 90))[:-200], "truncated"),
        (encode(smooth(90, 90), "PNG")[:-200], "truncated"),
        (encode(smooth(90, 90), "WEBP")[:-200], ""),
    ],
    ids=["empty", "html", "gif", "cut-jpeg", "cut-png", "cut-webp"],
)
def test_unreadable_bytes_name_the_record(data, reason):
    with pytest.raises(ValueError, match=rf"record 'cat/7.jpg' cannot be decoded: .*{reason}"):
        decode_image(data, "cat/7.jpg")


def test_harmless_jpeg_damage_is_tolerated():
    """Stray bytes before the end marker: libjpeg warns, browsers and Pillow show the image."""
    data = encode(smooth(30, 30))
    np.testing.assert_array_equal(
        decode_image(data[:-2] + b"\0\0\0" + data[-2:], "a"), decode_image(data, "a")
    )


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_pixel_limit(monkeypatch, format):
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    assert decode_image(encode(smooth(10, 10), format), "a").shape == (10, 10, 3)
    with pytest.raises(ValueError, match=r"record 'big' .*: 11x10 pixels exceed the limit of 100"):
        decode_image(encode(smooth(10, 11), format), "big")


@pytest.mark.parametrize(
    "size, canvas_px, expected",
    [
        ((480, 640), 512, (384, 512)),
        ((640, 480), 512, (512, 384)),
        ((512, 512), 512, (512, 512)),
        ((30, 40), 512, (30, 40)),
        ((1, 4000), 512, (1, 512)),
    ],
)
def test_fitted_size(size, canvas_px, expected):
    assert fitted_size(*size, canvas_px) == expected


def test_jpeg_is_decoded_small_but_never_below_the_canvas():
    data = encode(smooth(400, 600))
    sides = {px: decode_image(data, "a", px).shape[:2] for px in (600, 301, 300, 150, 40)}
    assert sides == {
        600: (400, 600),
        301: (400, 600),
        300: (200, 300),
        150: (100, 150),
        40: (50, 75),
    }


def test_scaled_decode_agrees_with_full_decode():
    data = encode(smooth(400, 600))
    small = read_image(Record(image=data, id="a"), 100)
    full = shrink(decode_image(data, "a"), 100)
    assert small.shape == full.shape == (67, 100, 3)
    assert np.abs(small.astype(int) - full).mean() < 1.0


def test_shrink_averages_by_area():
    image = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)
    expected = image.reshape(12, 5, 8, 5, 3).mean((1, 3))
    assert np.abs(shrink(image, 12) - expected).max() <= 1.0


def test_canvas_pads_right_and_bottom_with_zeros():
    image = smooth(20, 30)
    canvas, size = to_canvas(image, 48)
    assert canvas.shape == (48, 48, 3) and canvas.dtype == np.uint8
    assert size.tolist() == [20, 30] and size.dtype == np.int32
    np.testing.assert_array_equal(canvas[:20, :30], image)
    assert not canvas[20:].any() and not canvas[:, 30:].any()


def test_canvas_shrinks_only_what_does_not_fit():
    canvas, size = to_canvas(smooth(60, 120), 48)
    assert size.tolist() == [24, 48] and canvas[:24].any(-1).all() and not canvas[24:].any()


def test_canvas_is_written_in_place():
    out = np.zeros((2, 48, 48, 3), np.uint8)
    to_canvas(smooth(20, 30), 48, out=out[1])
    assert not out[0].any()
    np.testing.assert_array_equal(out[1], to_canvas(smooth(20, 30), 48)[0])


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 0, 3), "u1")],
)
def test_array_records_must_be_rgb(image):
    with pytest.raises(ValueError, match=r"record 'a' holds .*; give uint8 \[H, W, 3\]"):
        read_image(Record(image=image, id="a"), 32)
