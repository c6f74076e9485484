"""Antialiased bicubic resampling as two small matrix products.

The filter is Pillow's (and torch's with ``antialias=True``): Keys' cubic with a = -1/2, widened by
the reduction factor when shrinking, cut at the edges of the crop and normalised. Crops are images
of whole grey levels, rounded and clipped to 0..255 after each pass as in Pillow, from which they
differ by one level in a few of a million pixels.

Whole levels up to 256 are exact in bfloat16. Matrix units therefore need two passes for weights of
16 bits, where float32 would take six.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.precision import bfloat16_halves
from dinojax.typing import Array, Bool, Float, Int

EXACT = jax.lax.Precision.HIGHEST
WHITE = 255
TIE = 2**-8
"""Rounding happens this far below a half, at a place where no simple ratio of sizes puts a pixel:
the level of an exact tie would depend on the order of a sum."""


def resample_weights(
    out_px: int,
    canvas_px: int,
    start: int | Int[Array, ""],
    length: int | Int[Array, ""],
    *,
    dtype: DTypeLike,
) -> Float[Array, "out canvas"]:
    """Weights of the canvas' pixels in each pixel of ``canvas[start : start + length]`` resized.

    Rows sum to 1 and are zero outside the crop. `start` and `length` may be traced. Pillow's window
    of whole pixels needs no imitation: the filter vanishes where the window ends.
    """
    scale = jnp.asarray(length, dtype) / out_px
    centres = (jnp.arange(out_px, dtype=dtype) + 0.5) * scale
    pixels = jnp.arange(canvas_px) - start
    distance = (pixels.astype(dtype) + 0.5 - centres[:, None]) / jnp.maximum(scale, 1)
    inside = (pixels >= 0) & (pixels < length)
    weights = jnp.where(inside, _keys_cubic(distance), 0)
    return weights * (1 / weights.sum(axis=1, keepdims=True))


def resized_crop(
    canvas: Float[Array, "H W C"],
    box: Int[Array, "4"],
    out_px: int,
    *,
    flip: Bool[Array, ""] | None = None,
    window_px: int | None = None,
) -> Float[Array, "S S C"]:
    """The box (top, left, height, width) resized to a square, then mirrored left-right if `flip`.

    Whole grey levels 0..255 in and out; horizontal pass first, as in Pillow 12. The mirror image is
    free: the same product with the rows of the weights reversed. With `window_px`, a bound of the
    box' sides, only that much of the canvas is read.
    """
    top, left, height, width = box
    if window_px is not None:
        sides = [min(window_px, side) for side in canvas.shape[:2]]
        corner = [
            jnp.clip(start, 0, whole - side)
            for start, whole, side in zip((top, left), canvas.shape, sides, strict=False)
        ]
        canvas = jax.lax.dynamic_slice(canvas, (*corner, 0), (*sides, canvas.shape[2]))
        top, left = top - corner[0], left - corner[1]
    rows = resample_weights(out_px, canvas.shape[0], top, height, dtype=canvas.dtype)
    columns = resample_weights(out_px, canvas.shape[1], left, width, dtype=canvas.dtype)
    if flip is not None:
        columns = jnp.where(flip, columns[::-1], columns)
    narrow = to_levels(_product("hwc,xw->hxc", canvas, columns))
    return to_levels(_product("hxc,yh->yxc", narrow, rows))


def to_levels(image: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Rounded to whole grey levels and clipped to 0..255."""
    return jnp.floor(image + (0.5 + TIE)).clip(0, WHITE)


def resize(images: Float[Array, "*b H W C"], out_hw: tuple[int, int]) -> Float[Array, "*b h w C"]:
    """Whole images resized without clipping: torch's antialiased bicubic of float tensors."""
    height, width = images.shape[-3:-1]
    rows = resample_weights(out_hw[0], height, 0, height, dtype=images.dtype)
    columns = resample_weights(out_hw[1], width, 0, width, dtype=images.dtype)
    return jnp.einsum("yh,...hwc,xw->...yxc", rows, images, columns, precision=EXACT)


def _product(
    axes: str, levels: Float[Array, "..."], weights: Float[Array, "out in"]
) -> Float[Array, "..."]:
    """Einsum of whole levels, at most 256, with weights: exact to 2^-16 of the weights."""

    def in_full(levels: Array, weights: Array) -> Array:
        return jnp.einsum(axes, levels, weights, precision=EXACT)

    def in_two_passes(levels: Array, weights: Array) -> Array:
        high, low = bfloat16_halves(weights)
        levels = levels.astype(high.dtype)
        return sum(
            jnp.einsum(axes, levels, half, preferred_element_type=weights.dtype)
            for half in (high, low)
        )

    if weights.dtype == jnp.float64:
        return in_full(levels, weights)
    # A processor without matrix units would only do the work twice.
    return jax.lax.platform_dependent(levels, weights, cpu=in_full, default=in_two_passes)


def _keys_cubic(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    x = jnp.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))
