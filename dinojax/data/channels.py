"""From the samples of a file to uint8 pixels with the channels that a run wants.

One channel is luminance (ITU-R 601), three are RGB, and each can be had from the other. Any other
number is a measurement whose bands mean something: it must match exactly. 16-bit samples keep their
high byte, so that the full range maps to 0..255 and equal values stay equal in every image; a
stretch between each image's own extremes would not do that.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Pixels = UInt8[np.ndarray, "_ _ _"]  # [height, width, channel]

BACKGROUND = (128, 128, 128)
"""Mid-grey seen through transparent pixels: near the mean of natural images, so it adds no edge
stronger than the image's own, as white or black would."""

COLOUR_CHANNELS = (1, 3)
"""What files with a colour space, a palette or transparency can be turned into."""


def from_samples(samples: np.ndarray, channels: int) -> Pixels:
    """Samples [H, W] or [H, W, N] of uint8 or uint16 as uint8 [H, W, `channels`].

    Raises:
        ValueError: another type or shape, or a number of channels that cannot be converted.
    """
    if samples.dtype.kind != "u" or samples.dtype.itemsize > 2:
        raise ValueError(f"it holds {samples.dtype} samples; store uint8 or uint16")
    if samples.ndim not in (2, 3) or 0 in samples.shape:
        raise ValueError(f"its shape is {list(samples.shape)}; store [H, W] or [H, W, channels]")
    pixels = samples if samples.ndim == 3 else samples[..., None]
    if pixels.dtype.itemsize == 2:
        pixels = (pixels >> 8).astype(np.uint8)
    found = pixels.shape[-1]
    if found == channels:
        return np.ascontiguousarray(pixels)
    if (found, channels) == (1, 3):
        return np.repeat(pixels, 3, axis=-1)
    if (found, channels) == (3, 1):
        return from_image(Image.fromarray(np.ascontiguousarray(pixels)), 1)
    raise ValueError(mismatch(found, channels))


def from_image(image: Image.Image, channels: int) -> Pixels:
    """Any of Pillow's colour spaces, palettes and kinds of transparency as RGB or luminance.

    Raises:
        ValueError: samples without an agreed range, or a number of channels that colour lacks.
    """
    if channels not in COLOUR_CHANNELS:
        grey = Image.getmodebase(image.mode) == "L"
        raise ValueError(mismatch(1 if grey else 3, channels))
    if image.mode.startswith("I;16"):
        return from_samples(np.asarray(image), channels)
    if image.mode == "I" and image.format == "PPM":  # Pillow scales any depth to 0..65535
        return from_samples(np.asarray(image).astype(np.uint16), channels)
    if image.mode in ("I", "F"):
        raise ValueError("its samples have 32 bits and no agreed range; store uint8 or uint16")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image)
    pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return pixels if channels == 3 else pixels[..., None]


def mismatch(found: int, wanted: int) -> str:
    """What to say of an image with `found` channels in a run on `wanted`."""
    kinds = "" if wanted in COLOUR_CHANNELS else f", or TIFF or NPY images of {wanted} channels"
    return (
        f"channels found: {found}, wanted: {wanted}; use student.in_chans={found} "
        f"(dinojax.prepare: --channels={found}){kinds}"
    )
