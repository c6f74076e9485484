"""Decoding: exactness against Pillow, odd formats, orientation, limits, and the canvas."""

import io

import numpy as np
import pytest
import simplejpeg
from images import as_npy, encode, smooth
from PIL import ExifTags, Image, ImageOps

from dinojax.data import decode
from dinojax.data.channels import BACKGROUND
from dinojax.data.decode import decode_image, fitted_size, read_image, shrink, to_canvas
from dinojax.data.records import Record


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def test_jpeg_equals_pillow():
    data = encode(smooth(45, 61))
    image = decode_image(data, "a")
    assert image.shape == (45, 61, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, pillow(data))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "BMP", "PPM"])
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


def test_inks_of_cmyk_jpegs_are_stored_inverted():
    """White paper and full black: as every known writer does, Pillow stores 255 for no ink."""
    for inks, level in (((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0)):
        data = encode(Image.new("CMYK", (16, 16), inks))
        assert b"Adobe" in data
        np.testing.assert_allclose(decode_image(data, "a"), level, atol=1)


def test_first_frame_of_an_animation():
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (40, 200)]
    for format in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(data)).n_frames == 2
        np.testing.assert_allclose(decode_image(data, "a"), 40, atol=2)


def test_avif():
    image = decode_image(encode(smooth(24, 40), "AVIF", quality=100, subsampling="4:4:4"), "a")
    assert np.abs(image.astype(int) - smooth(24, 40)).max() <= 4


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
    assert (image[:3] == BACKGROUND).all()
    assert np.abs(image[3].astype(int) - 191).max() <= 1
    np.testing.assert_array_equal(image[4:], rgba[4:, :, :3])


def test_transparent_palette_entry_shows_mid_grey():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    decoded = decode_image(encode(image, "PNG", transparency=0), "a")
    assert decoded.tolist() == [[[128, 128, 128], [0, 255, 0]]]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation, format):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(smooth(24, 40), format, exif=exif)
    image = decode_image(data, "a")
    assert image.shape[:2] == ((24, 40) if orientation < 5 else (40, 24))
    np.testing.assert_array_equal(image, pillow(data))


def test_orientation_of_pixels_without_exif():
    """Of a preview inside the file, or of a text that only looks like a block."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    preview = encode(smooth(24, 40), exif=exif)
    for data in (encode(smooth(24, 40), comment=preview), encode(smooth(24, 40)) + preview):
        assert decode_image(data, "a").shape == (24, 40, 3)


def test_exif_behind_other_segments_and_padding():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encode(smooth(24, 40), exif=exif, icc_profile=b"x" * 70_000)
    start = data.index(b"Exif\0\0") - 4
    moved = data[:start] + b"\xff\xfe\0\x05abc\xff\xff" + data[start:]
    assert decode_image(moved, "a").shape == (40, 24, 3)


def test_damaged_exif_is_ignored():
    for block in (b"", b"MM", b"MM\0*", b"MM\0*\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09"):
        data = encode(smooth(24, 40), exif=b"Exif\0\0" + block)
        assert decode_image(data, "a").shape == (24, 40, 3)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "the bytes are no JPEG, PNG, .*, TIFF, NPY image"),
        (encode(smooth(9, 9), "TGA"), "the bytes are no JPEG, PNG, .*, TIFF, NPY image"),
        (encode(smooth(90, 90))[:-200], "truncated"),
        (encode(smooth(90, 90), "PNG")[:-200], "truncated"),
        (encode(smooth(90, 90), "WEBP")[:-200], ""),
        (encode(smooth(90, 90), "GIF")[:-200], "truncated"),
        (encode(smooth(90, 90), "BMP")[:-200], "truncated"),
        (encode(smooth(90, 90), "PPM")[:-200], "truncated"),
        (encode(smooth(90, 90), "AVIF")[:-200], ""),
        (encode(smooth(90, 90), "TIFF")[:4], ""),
        (encode(smooth(90, 90), "TIFF")[:-200], ""),
        (as_npy(smooth(90, 90))[:-200], "truncated"),
        (as_npy(smooth(90, 90))[:20], ""),
        (as_npy(np.array([[{}]])), "Python objects"),
    ],
    ids=[
        *("empty", "html", "tga", "cut-jpeg", "cut-png", "cut-webp", "cut-gif", "cut-bmp"),
        *("cut-ppm", "cut-avif", "tiff-head", "cut-tiff", "cut-npy", "npy-head", "npy-objects"),
    ],
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


def area_average(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each pixel the exact average of the rectangle it covers."""

    def weights(last: int, pixels: int) -> np.ndarray:
        ends = np.arange(pixels + 1) * last / pixels
        first, last_ = ends[:-1, None], ends[1:, None]
        pixel = np.arange(last)
        return (np.minimum(last_, pixel + 1) - np.maximum(first, pixel)).clip(0) * pixels / last

    rows, columns = (weights(n, m) for n, m in zip(image.shape[:2], size, strict=True))
    return np.einsum("yh,hwc,xw->yxc", rows, image.astype(float), columns, optimize=True)


def natural(height: int, width: int) -> np.ndarray:
    """Noise with the spectrum of photographs (amplitude 1 / frequency), as strong as theirs."""
    noise = np.random.default_rng(0).standard_normal((height, width, 3))
    y, x = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(y, x), 1 / width)
    image = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) * amplitude[..., None], axes=(0, 1)).real
    return np.clip(128 + 60 * image / image.std(), 0, 255).astype(np.uint8)


def test_jpeg_far_too_large_is_scaled_inside_its_inverse_dct():
    """At least one and a half times as large as needed: here at half its size."""
    data = encode(natural(480, 640))
    half = simplejpeg.decode_jpeg(data, "RGB", min_height=240, min_width=320, min_factor=2.0)
    assert half.shape == (240, 320, 3)
    error = decode_image(data, "a", 170) - area_average(half, (128, 170))
    assert np.abs(error).max() <= 0.51


@pytest.mark.parametrize("make, limit", [(smooth, 0.5), (natural, 4.0)])
@pytest.mark.parametrize("canvas_px", [560, 400, 300, 200, 160, 75, 61])
def test_shrunk_images_are_averages_by_area(make, limit, canvas_px):
    """From the file or from pixels, at any factor; odd sizes, which inverse DCTs round up."""
    original = make(433, 611)
    data = encode(original)
    full = decode_image(data, "a")
    expected = area_average(full, fitted_size(433, 611, canvas_px))
    if 611 / canvas_px > decode.INTERPOLATED:
        assert np.abs(shrink(full, canvas_px) - expected).max() < 0.51
    error = decode_image(data, "a", canvas_px) - expected
    bias = 0.1 if 611 / canvas_px > decode.INTERPOLATED else 0.15  # interpolation rounds downwards
    assert np.abs(error).mean() < limit and abs(error.mean()) < bias


@pytest.mark.parametrize("channels", [1, 3])
def test_scratch_changes_no_pixel(channels):
    """Sizes below, at and beyond it, scaled and turned ones; used again without a trace."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    scratch = decode.make_scratch(64, channels)
    for image in (smooth(128, 128), smooth(40, 60), smooth(129, 128), natural(433, 611)):
        for data in (encode(image), encode(image, exif=exif), encode(image, "PNG")):
            expected = decode_image(data, "a", 64, channels)
            scratch[:] = 77
            found = decode_image(data, "a", 64, channels, scratch)
            np.testing.assert_array_equal(found, expected)
    inside = decode_image(encode(smooth(40, 60)), "a", 64, channels, scratch)
    assert np.shares_memory(inside, scratch)


def test_pixels_that_the_canvas_can_hold_are_those_of_the_file():
    data = encode(natural(45, 61))
    np.testing.assert_array_equal(decode_image(data, "a", 61), decode_image(data, "a"))
    assert max(decode_image(data, "a", 60).shape) == 60


def test_hardly_too_large_images_are_interpolated():
    """Between pixel centres: a ramp stays that ramp, whatever the factor."""
    ramp = np.tile(np.arange(40, 240, dtype=np.uint8)[None, :, None], (50, 1, 3))
    for canvas_px in (151, 180, 199):
        centres = (np.arange(canvas_px) + 0.5) * 200 / canvas_px - 0.5
        expected = np.interp(centres, np.arange(200), ramp[0, :, 0])
        small = shrink(ramp, canvas_px)
        assert small.shape[1] == canvas_px
        error = small - expected[None, :, None]
        assert error.min() > -0.75 and error.max() < 0.52


def test_shrink_averages_by_area():
    image = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)
    expected = image.reshape(12, 5, 8, 5, 3).mean((1, 3))
    assert np.abs(shrink(image, 12) - expected).max() <= 0.5


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 200])
def test_shrink_averages_any_number_of_channels(channels):
    image = np.random.default_rng(0).integers(0, 256, (31, 47, channels), np.uint8)
    assert np.abs(shrink(image, 20) - area_average(image, (13, 20))).max() < 0.51


def test_canvas_is_black_beside_the_image():
    """Whatever lay there before, and without touching what lies around the canvas."""
    image, out = smooth(20, 30), np.full((3, 48, 48, 3), 77, np.uint8)
    size = to_canvas(image, out[1])
    assert size.tolist() == [20, 30] and size.dtype == np.int32
    np.testing.assert_array_equal(out[1, :20, :30], image)
    assert not out[1, 20:].any() and not out[1, :, 30:].any()
    assert (out[[0, 2]] == 77).all()


def test_canvas_shrinks_only_what_does_not_fit():
    canvas = np.zeros((48, 48, 3), np.uint8)
    assert to_canvas(smooth(60, 120), canvas).tolist() == [24, 48]
    np.testing.assert_array_equal(canvas[:24], shrink(smooth(60, 120), 48))
    assert not canvas[24:].any()


@pytest.mark.parametrize(
    "image, reason",
    [
        (np.zeros((4, 4, 3), np.float32), "it holds float32 samples; store uint8 or uint16"),
        (np.zeros((4, 4, 3), np.int16), "it holds int16 samples"),
        (
            np.zeros((4, 0, 3), "u1"),
            r"its shape is \[4, 0, 3\]; store \[H, W\] or \[H, W, channels",
        ),
        (np.zeros((2, 4, 4, 3), "u1"), r"give \[H, W, channels\]"),
        (np.zeros((4, 4), "u1"), r"give \[H, W, channels\]"),
        (np.zeros((4, 4, 5), "u1"), r"channels found: 5, wanted: 3; use student.in_chans=5"),
    ],
)
def test_array_records_must_be_pixels(image, reason):
    with pytest.raises(ValueError, match=rf"record 'a' holds {image.dtype} \[.*\]: {reason}"):
        read_image(Record(image=image, id="a"), 32)


def test_array_records_shrink_too():
    image = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)
    np.testing.assert_array_equal(read_image(Record(image=image, id="a"), 12), shrink(image, 12))
