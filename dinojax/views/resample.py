"""Antialiased bicubic resampling as two small matrix products.

The filter is Pillow's (and torch's with ``antialias=True``): Keys' cubic with a = -1/2, widened by
the reduction factor when shrinking, cut at the edges of the crop and normalised. In exact
arithmetic this is crop-then-resize. Pillow rounds the result of each pass to uint8; `resized_crop`
keeps only its clipping to 0..255, which leaves at most 1.13 grey levels of difference (without the
clipping: 12).

On matrix units a product is a few passes of bfloat16 with float32 sums, as many as its operands
need: whole grey levels fit into one bfloat16, weights and other levels into two. That is exact to
0.01 levels, with two or three passes where float32 takes six.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.precision import bfloat16_halves
from dinojax.typing import Array, Bool, Float, Int, UInt8
from dinojax.views.colour import WHITE

EXACT = jax.lax.Precision.HIGHEST


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
    canvas: UInt8[Array, "H W C"] | Float[Array, "H W C"],
    box: Int[Array, "4"],
    out_px: int,
    *,
    flip: Bool[Array, ""] | None = None,
    window_px: int | None = None,
    dtype: DTypeLike = float,
) -> Float[Array, "S S C"]:
    """The box (top, left, height, width) resized to a square, then mirrored left-right if `flip`.

    Grey levels in and out: both passes end clipped to 0..255, horizontal first, as in Pillow 12.
    The mirror image is free: the same product with the rows of the weights reversed. With
    `window_px`, a bound of the box' sides, only that much of the canvas is read. The crop is
    `dtype`, or that of a canvas of floats.
    """
    top, left, height, width = box
    if window_px is not None:
        sides = [min(window_px, side) for side in canvas.shape[:2]]
        top_px, left_px = (
            jnp.clip(start, 0, whole - side)
            for start, whole, side in zip((top, left), canvas.shape[:2], sides, strict=True)
        )
        corner = top_px, left_px, jnp.zeros_like(top_px)
        canvas = jax.lax.dynamic_slice(canvas, corner, (*sides, canvas.shape[2]))
        top, left = top - top_px, left - left_px
    dtype = canvas.dtype if jnp.issubdtype(canvas.dtype, jnp.floating) else dtype
    rows = resample_weights(out_px, canvas.shape[0], top, height, dtype=dtype)
    columns = resample_weights(out_px, canvas.shape[1], left, width, dtype=dtype)
    if flip is not None:
        columns = jnp.where(flip, columns[::-1], columns)
    narrow = _product("hwc,xw->hxc", canvas, columns).clip(0, WHITE)
    return _product("hxc,yh->yxc", narrow, rows).clip(0, WHITE)


def resize(images: Float[Array, "*b H W C"], out_hw: tuple[int, int]) -> Float[Array, "*b h w C"]:
    """Whole images resized without clipping: torch's antialiased bicubic of float tensors."""
    height, width = images.shape[-3:-1]
    rows = resample_weights(out_hw[0], height, 0, height, dtype=images.dtype)
    columns = resample_weights(out_hw[1], width, 0, width, dtype=images.dtype)
    return _product("...hxc,yh->...yxc", _product("...hwc,xw->...hxc", images, columns), rows)


def _product(
    axes: str, levels: UInt8[Array, "..."] | Float[Array, "..."], weights: Float[Array, "out in"]
) -> Float[Array, "..."]:
    """Einsum in the weights' dtype, exact to 2^-16 of its terms."""

    def in_full(levels: Array, weights: Array) -> Array:
        return jnp.einsum(axes, levels.astype(weights.dtype), weights, precision=EXACT)

    def in_passes(levels: Array, weights: Array) -> Array:
        high, low = bfloat16_halves(weights)
        whole, *rest = bfloat16_halves(levels) if levels.dtype != jnp.uint8 else [levels]
        pairs = [(whole, high), (whole, low), *((part, high) for part in rest)]
        products = [
            jnp.einsum(axes, a.astype(b.dtype), b, preferred_element_type=weights.dtype)
            for a, b in pairs
        ]
        return sum(products[1:], products[0])

    if weights.dtype == jnp.float64:
        return in_full(levels, weights)
    # A processor without matrix units would only do the work twice.
    return jax.lax.platform_dependent(levels, weights, cpu=in_full, default=in_passes)


def _keys_cubic(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    x = jnp.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))
