"""Channels: luminance, RGB and bands, from files of every kind."""

import numpy as np
import pytest
from images import as_npy, encode, smooth
from PIL import Image

from dinojax.data.channels import BACKGROUND, from_samples
from dinojax.data.decode import decode_image


def luma(image: np.ndarray) -> np.ndarray:
    return (image @ [0.299, 0.587, 0.114])[..., None]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "NPY"])
def test_one_channel_is_luminance(format):
    data = as_npy(smooth(24, 40)) if format == "NPY" else encode(smooth(24, 40), format)
    grey, colour = (decode_image(data, "a", channels=n) for n in (1, 3))
    assert grey.shape == (24, 40, 1) and grey.dtype == np.uint8
    assert np.abs(grey - luma(colour)).max() <= 1.5


@pytest.mark.parametrize("canvas_px", [None, 100])
def test_grey_files_are_the_same_in_every_channel(canvas_px):
    levels = smooth(200, 300)[..., 0]
    for data in (encode(Image.fromarray(levels)), encode(Image.fromarray(levels), "PNG")):
        grey, colour = (decode_image(data, "a", canvas_px, n) for n in (1, 3))
        np.testing.assert_array_equal(colour, grey.repeat(3, -1))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_mid_grey_in_luminance_too(mode, channels):
    if mode == "P":
        image = Image.new("P", (8, 8), 3)
        image.putpalette(range(12))
        data = encode(image, "PNG", transparency=3)
    else:
        data = encode(Image.new(mode, (8, 8), 0), "PNG")
    assert (decode_image(data, "a", channels=channels) == BACKGROUND[0]).all()


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) << 10), "PNG"),
        encode(Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8) << 10), "PPM"),
        as_npy(np.arange(64, dtype=np.uint16).reshape(8, 8) << 10),
        as_npy(np.arange(64, dtype=">u2").reshape(8, 8) << 10),
    ],
    ids=["png", "ppm", "npy", "npy-big-endian"],
)
def test_sixteen_bits_keep_their_high_byte(data):
    """Whatever the image's own extremes: 0..65535 is 0..255."""
    expected = (np.arange(64) << 2).reshape(8, 8, 1)
    np.testing.assert_array_equal(decode_image(data, "a", channels=1), expected)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 2), (6, 5, 3), (6, 5, 12)])
def test_npy(shape, order):
    array = np.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8), order=order)
    channels = array.shape[2] if array.ndim == 3 else 1
    image = decode_image(as_npy(array), "a", channels=channels)
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, array.reshape(6, 5, channels))


@pytest.mark.parametrize("found, wanted", [(1, 2), (1, 4), (2, 1), (2, 3), (3, 2), (4, 3), (5, 4)])
def test_other_channels_are_an_error(found, wanted):
    message = rf"channels found: {found}, wanted: {wanted}; use student\.in_chans={found}"
    with pytest.raises(ValueError, match=message):
        from_samples(np.zeros((4, 4, found), np.uint8), wanted)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("wanted", [2, 4])
def test_colour_files_have_no_bands(format, wanted):
    """Nor does an alpha channel count as one."""
    image = Image.fromarray(smooth(8, 8)).convert("RGBA" if format == "PNG" else "RGB")
    message = (
        rf"record 'a' .*found: 3, wanted: {wanted}; use .*=3\), or TIFF or NPY images of {wanted}"
    )
    with pytest.raises(ValueError, match=message):
        decode_image(encode(image, format), "a", channels=wanted)


def test_floating_point_pixels_have_no_range():
    for data in (
        encode(Image.new("F", (8, 8)), "TIFF"),
        encode(Image.new("F", (8, 8)), "PPM"),
        as_npy(np.zeros((8, 8, 3))),
        as_npy(np.zeros((8, 8, 3), bool)),
    ):
        with pytest.raises(ValueError, match="store uint8 or uint16"):
            decode_image(data, "a")
