"""Antialiased bicubic resampling as two small matrix products.

The filter is Pillow's (and torch's with ``antialias=True``): Keys' cubic with a = -1/2, widened by
the reduction factor when shrinking, cut at the edges of the crop and normalised. In exact
arithmetic this is crop-then-resize. Pillow rounds the result of each pass to uint8; `resized_crop`
keeps only its clipping to 0..255, which leaves at most 1.13 grey levels of difference (without the
clipping: 12).
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.typing import Array, Bool, Float, Int

EXACT = jax.lax.Precision.HIGHEST
WHITE = 255


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


def _keys_cubic(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    x = jnp.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))
