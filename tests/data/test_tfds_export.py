"""Which files TFDS reads as prepared folders would say."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from images import as_npy, bands, encode, smooth
from PIL import Image

from dinojax.data.decode import decode_image
from dinojax.data.tfds_export import is_tfds_image

SIXTEEN_BITS = Image.fromarray(np.arange(80, dtype=np.uint16).reshape(8, 10) * 800)


def picture(mode: str) -> Image.Image:
    image = Image.fromarray(smooth(8, 10))
    return SIXTEEN_BITS if mode == "I;16" else image.convert(mode)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "format", "readable_as"),
    [
        ("L", "PNG", (1, 3)),
        ("1", "PNG", (1, 3)),
        ("RGB", "PNG", (3,)),
        ("P", "PNG", (3,)),
        ("L", "BMP", (1, 3)),
        ("RGB", "BMP", (3,)),
        ("RGBA", "PNG", ()),
        ("LA", "PNG", ()),
        ("I;16", "PNG", ()),
    ],
)
def test_what_it_reads_it_reads_right(channels, mode, format, readable_as):
    data = encode(picture(mode), format)
    theirs = tfds.features.Image(shape=(None, None, channels)).decode_example_np(data)
    ours = decode_image(data, "x", channels=channels)
    assert is_tfds_image(data, channels) == (channels in readable_as)
    assert np.array_equal(theirs, ours) == (channels in readable_as)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("mode", "format"), [("L", "JPEG"), ("RGB", "JPEG"), ("RGB", "WEBP")])
def test_lossy_files(channels, mode, format):
    data = encode(picture(mode), format)
    shape = tfds.features.Image(shape=(None, None, channels)).decode_example_np(data).shape
    assert is_tfds_image(data, channels) == (shape[-1] == channels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_files_that_it_does_not_know(channels):
    assert not is_tfds_image(as_npy(bands(8, 8, channels)), channels)
    if channels == 4:  # transparency, not a band
        assert not is_tfds_image(encode(bands(8, 8, 4), "PNG"), channels)
