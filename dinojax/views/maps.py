"""Segmentation and depth of a crop: the map of an image, cut as the image is.

Each pixel of a crop takes the value of the one pixel under its middle: class numbers have no
averages, and those of depths would mix in 0, the unknown, and the far side of edges.
"""

import jax.numpy as jnp

from dinojax.typing import Array, Int, Shaped


def crop_map(map: Shaped[Array, "H W"], box: Int[Array, "4"], out_px: int) -> Shaped[Array, "S S"]:
    """The box (top, left, height, width) at the nearest pixels.

    The counterpart of `resized_crop`: values, dtype and the 0 of unknown depth are the map's.
    """
    top, left, height, width = box
    return map[top + _nearest(height, out_px)][:, left + _nearest(width, out_px)]


def _nearest(length: Int[Array, ""], out_px: int) -> Int[Array, " out_px"]:
    """Which of `length` pixels lies under the middle of each of `out_px`, in exact integers."""
    i = jnp.arange(out_px)
    # A middle on the border of two pixels, as in every halving, goes to the second one and to the
    # first one in turn. Always the second, as in Pillow, would shift the map by half a pixel.
    return ((2 * i + 1) * length - i % 2) // (2 * out_px)
