"""Crop boxes ``top, left, height, width`` in pixels of the canvas."""

import math

import jax.numpy as jnp

from dinojax.typing import Array, Float, Int
from dinojax.views.draws import between, integer_to

TRIES = 10
BOX_DRAWS = {"area": TRIES, "log_aspect": TRIES, "offset": 2}
"""Uniform numbers behind one box."""


def largest_side(
    canvas_px: int, scale: tuple[float, float], *, ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> int:
    """A bound of the sides of all boxes, the fallback's too, for images in a canvas of this side.

    A drawn side squared is at most area times ratio. The fallback is taken when the image is too
    narrow for that: its short side is then below ``scale * ratio`` of the long one, and the box'
    long side that times the ratio once more.
    """
    stretch = max(ratio[1], 1 / ratio[0])
    share = max(math.sqrt(scale[1] * stretch), scale[1] * stretch**2)
    return min(canvas_px, math.ceil(canvas_px * share) + 1)


def choose_box(
    unit: dict[str, Float[Array, " n"]],
    size_hw: Int[Array, "2"],
    scale: tuple[float, float],
    *,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Int[Array, "4"]:
    """A random box of relative area ``U(scale)`` and log-uniform aspect, inside the image.

    torchvision's `RandomResizedCrop`: the first of ten (area, aspect) pairs whose box fits, at a
    uniform integer offset; if none fits, the largest centred box whose aspect (width / height) lies
    in `ratio`. `unit` has the numbers named in `BOX_DRAWS`. `size_hw` is the image in the canvas'
    top left corner.
    """
    size_hw = size_hw.astype(jnp.int32)

    area = size_hw.prod() * between(unit["area"], *scale)
    aspect = jnp.exp(between(unit["log_aspect"], math.log(ratio[0]), math.log(ratio[1])))
    sides = jnp.sqrt(jnp.stack([area / aspect, area * aspect], axis=1))
    tries_hw = jnp.round(sides).astype(jnp.int32)
    fits = ((tries_hw > 0) & (tries_hw <= size_hw)).all(axis=1)

    box_hw = jnp.where(fits.any(), tries_hw[jnp.argmax(fits)], _largest_box(size_hw, ratio))
    slack = size_hw - box_hw
    offset = jnp.where(fits.any(), integer_to(unit["offset"], slack), slack // 2)
    return jnp.concatenate([offset, box_hw])


def _largest_box(size_hw: Int[Array, "2"], ratio: tuple[float, float]) -> Int[Array, "2"]:
    height, width = size_hw
    tallest = jnp.round(width / ratio[0]).astype(size_hw.dtype)
    widest = jnp.round(height * ratio[1]).astype(size_hw.dtype)
    return jnp.stack([jnp.minimum(height, tallest), jnp.minimum(width, widest)])
