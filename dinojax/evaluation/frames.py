"""Rectangles cut from resized images, with their maps, also where they reach beyond the image.

A `Frame` says it in the words of the published dense protocols: resize the image to so many pixels,
then take a window of it. Nothing larger than the window is ever computed: both are one product with
a matrix of weights per axis. The filter is bilinear, widened when shrinking (antialiased) and
normalised inside the image. Maps take the nearest pixel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.typing import Array, Bool, Float, Int, Shaped, UInt8

EXACT = jax.lax.Precision.HIGHEST


class Frame(NamedTuple):
    """A window of a resized image; rows and columns may be negative or beyond the image."""

    resized: Int[Array | np.ndarray, "*n 2"]
    """Height and width that the whole image is resized to."""
    corner: Int[Array | np.ndarray, "*n 2"]
    """Top and left of the window in it."""


def axis_weights(
    out_px: int, canvas_px: int, length: Int[Array, ""], resized: Int[Array, ""], start: Array
) -> Float[Array, "out canvas"]:
    """Along one axis: how much of each pixel of the image is in each of the window.

    Rows sum to 1 inside the image, whose first `length` pixels count, and are 0 beyond it.
    """
    step = length / resized
    centres = (jnp.arange(out_px) + start + 0.5) * step
    pixels = jnp.arange(canvas_px)
    distance = jnp.abs(pixels + 0.5 - centres[:, None]) / jnp.maximum(step, 1)
    weights = jnp.where(pixels < length, jnp.maximum(1 - distance, 0), 0)
    total = weights.sum(1, keepdims=True)
    inside = _inside(out_px, resized, start)[:, None] & (total > 0)
    return jnp.where(inside, weights / jnp.where(inside, total, 1), 0)


def cut(
    canvas: UInt8[Array, "H W C"],
    size: Int[Array, "2"],
    frame: Frame,
    out_hw: tuple[int, int],
    *,
    flip: Bool[Array, ""] | bool = False,
) -> tuple[Float[Array, "h w C"], Bool[Array, "h w"]]:
    """The window in grey levels, mirrored left-right if `flip`, and where there is image in it."""
    rows, columns = (
        axis_weights(out_hw[i], canvas.shape[i], size[i], frame.resized[i], frame.corner[i])
        for i in range(2)
    )
    columns = jnp.where(flip, columns[::-1], columns)
    narrow = jnp.einsum("hwc,xw->hxc", canvas.astype(columns.dtype), columns, precision=EXACT)
    crop = jnp.einsum("hxc,yh->yxc", narrow, rows, precision=EXACT)
    return crop, rows.any(1)[:, None] & columns.any(1)


def cut_map(
    map: Shaped[Array, "H W"],
    size: Int[Array, "2"],
    frame: Frame,
    out_hw: tuple[int, int],
    *,
    empty: int,
    flip: Bool[Array, ""] | bool = False,
) -> Shaped[Array, "h w"]:
    """The same window of a map, `empty` beyond the image."""
    (rows, inside_rows), (columns, inside_columns) = (
        _nearest(out_hw[i], size[i], frame.resized[i], frame.corner[i]) for i in range(2)
    )
    columns = jnp.where(flip, columns[::-1], columns)
    inside_columns = jnp.where(flip, inside_columns[::-1], inside_columns)
    return jnp.where(inside_rows[:, None] & inside_columns, map[rows][:, columns], empty)


def shorter_side(size: Int[Array, "2"], target_px: Int[Array, ""] | int) -> Int[Array, "2"]:
    """The size with the shorter side at `target_px` and the proportions kept, rounded."""
    return jnp.floor(size * (target_px / size.min()) + 0.5).astype(jnp.int32)


def centred(size: Int[Array, "2"], out_hw: tuple[int, int]) -> Frame:
    """The largest centred window of the image with the proportions of `out_hw`."""
    wanted = jnp.asarray(out_hw)
    scale = (wanted / size).max()
    resized = jnp.floor(size * scale + 0.5).astype(jnp.int32)
    return Frame(resized, (resized - wanted) // 2)


def _inside(out_px: int, resized: Int[Array, ""], start: Array) -> Bool[Array, " out"]:
    place = jnp.arange(out_px) + start
    return (place >= 0) & (place < resized)


def _nearest(
    out_px: int, length: Int[Array, ""], resized: Int[Array, ""], start: Array
) -> tuple[Int[Array, " out"], Bool[Array, " out"]]:
    place = jnp.arange(out_px) + start
    nearest = ((2 * place + 1) * length) // (2 * resized)  # in exact integers
    return nearest.clip(0, length - 1), _inside(out_px, resized, start)
