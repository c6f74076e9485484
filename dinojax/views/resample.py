"""Antialiased bicubic resampling as two small matrix products.

The filter is Pillow's (and torch's with ``antialias=True``): Keys' cubic with a = -1/2, widened by
the reduction factor when shrinking, cut at the edges of the crop and normalised. In exact
arithmetic this is crop-then-resize. Pillow rounds the result of each pass to uint8; `resized_crop`
keeps only its clipping to 0..255, which leaves at most 1.13 grey levels of difference (without the
clipping: 12).
"""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dinojax.typing import Array, Bool, Float, Int, UInt8

EXACT = jax.lax.Precision.HIGHEST
WHITE = 255


def resample_weights(
    out_px: int,
    canvas_px: int,
    start: int | Int[Array, ""],
    length: int | Int[Array, ""],
    *,
    dtype: DTypeLike,
    xp: ModuleType = jnp,
) -> Float[Array | np.ndarray, "out canvas"]:
    """Weights of the canvas' pixels in each pixel of ``canvas[start : start + length]`` resized.

    Rows sum to 1 and are zero outside the crop. `start` and `length` may be traced. Pillow's window
    of whole pixels needs no imitation: the filter vanishes where the window ends. `xp` is `jnp`, or
    `numpy` for static weights in float64.
    """
    scale = xp.asarray(length, dtype) / out_px
    centres = (xp.arange(out_px, dtype=dtype) + 0.5) * scale
    pixels = xp.arange(canvas_px) - start
    distance = (pixels.astype(dtype) + 0.5 - centres[:, None]) / xp.maximum(scale, 1)
    inside = (pixels >= 0) & (pixels < length)
    weights = xp.where(inside, _keys_cubic(distance, xp), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def resized_crop(
    canvas: Float[Array, "H W C"],
    box: Int[Array, "4"],
    out_px: int,
    *,
    flip: Bool[Array, ""] | None = None,
) -> Float[Array, "S S C"]:
    """The box (top, left, height, width) resized to a square, then mirrored left-right if `flip`.

    Grey levels in and out: both passes end clipped to 0..255, horizontal first, as in Pillow 12.
    The mirror image is free: the same product with the rows of the weights reversed.
    """
    top, left, height, width = box
    rows = resample_weights(out_px, canvas.shape[0], top, height, dtype=canvas.dtype)
    columns = resample_weights(out_px, canvas.shape[1], left, width, dtype=canvas.dtype)
    if flip is not None:
        columns = jnp.where(flip, columns[::-1], columns)
    narrow = jnp.einsum("hwc,xw->hxc", canvas, columns, precision=EXACT).clip(0, WHITE)
    return jnp.einsum("yh,hxc->yxc", rows, narrow, precision=EXACT).clip(0, WHITE)


def resize(images: Float[Array, "*b H W C"], out_hw: tuple[int, int]) -> Float[Array, "*b h w C"]:
    """Whole images resized without clipping: torch's antialiased bicubic of float tensors."""
    height, width = images.shape[-3:-1]
    rows = resample_weights(out_hw[0], height, 0, height, dtype=images.dtype)
    columns = resample_weights(out_hw[1], width, 0, width, dtype=images.dtype)
    return jnp.einsum("yh,...hwc,xw->...yxc", rows, images, columns, precision=EXACT)


def resize_uint8(
    images: UInt8[Array, "*b H W C"], out_hw: tuple[int, int]
) -> UInt8[Array, "*b h w C"]:
    """Whole images resized as torch resizes uint8 tensors, bit for bit (evaluation transforms).

    Each pass is a product of integers, horizontal first: weights of 16 bits, the result rounded to
    grey levels (PyTorch `UpSampleKernel.cpp`, the uint8 path of its antialiased kernels).
    """
    height, width = images.shape[-3:-1]
    levels = images.astype(jnp.int32)
    for form, out_px, in_px in (
        ("xw,...hwc->...hxc", out_hw[1], width),
        ("yh,...hwc->...ywc", out_hw[0], height),
    ):
        exact = resample_weights(out_px, in_px, 0, in_px, dtype=float, xp=np)
        weights, bits = _fixed_point(np.asarray(exact), width=16)
        total = jnp.einsum(form, jnp.asarray(weights), levels)
        levels = ((total + (1 << (bits - 1))) >> bits).clip(0, WHITE)
    return levels.astype(jnp.uint8)


def _fixed_point(
    weights: Float[np.ndarray, "out canvas"], width: int
) -> tuple[Int[np.ndarray, "out canvas"], int]:
    """Integers and their fractional bits: up to 22, as the largest weight permits."""
    bits = 0
    while bits < 22 and int(0.5 + weights.max() * 2 ** (bits + 1)) < 2 ** (width - 1):
        bits += 1
    rounded = np.trunc(weights * 2**bits + np.copysign(0.5, weights))
    return rounded.astype(np.int32), bits


def _keys_cubic(
    x: Float[Array | np.ndarray, "*s"], xp: ModuleType
) -> Float[Array | np.ndarray, "*s"]:
    x = xp.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return xp.where(x < 1, near, xp.where(x < 2, far, 0))
