"""Grids of features resized to another grid as `torch.nn.functional.interpolate` does it.

With ``align_corners=False``. Without antialiasing a reduction skips pixels: the cubic has
a = -0.75 and reads the border pixel again beyond the border. With it the filter is widened by the
reduction and normalised inside the grid, and the cubic has a = -0.5.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.typing import Array, Float

METHODS = ("bicubic", "bilinear")


def resize_grid(
    x: Float[Array, "*b h w D"],
    out_hw: tuple[int, int],
    *,
    method: str = "bicubic",
    antialias: bool = False,
    offset: float = 0.0,
) -> Float[Array, "*b H W D"]:
    """`x` on a grid of ``out_hw``, rows and columns apart; of the same size it is returned as is.

    `offset` is added to the new sides where the step is taken from them: PyTorch's step when it is
    asked for a scale factor of ``(out + offset) / size``, as by DINOv2.

    Raises:
        ValueError: unknown `method`.
    """
    if tuple(x.shape[-3:-1]) == tuple(out_hw):
        return x
    rows, columns = (
        jnp.asarray(resize_weights(size, out, method, antialias, offset), x.dtype)
        for size, out in zip(x.shape[-3:-1], out_hw, strict=True)
    )
    exact = jax.lax.Precision.HIGHEST
    wide = jnp.einsum("...hwd,yh->...ywd", x, rows, precision=exact)
    return jnp.einsum("...ywd,xw->...yxd", wide, columns, precision=exact)


def resize_weights(
    size: int, out: int, method: str, antialias: bool, offset: float = 0.0
) -> np.ndarray:
    """``[out, size]``: how much of each pixel is in each new one; rows sum to 1.

    Raises:
        ValueError: unknown `method`.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; use one of {METHODS}")
    scale = size / (out + offset)
    stretch = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(out) + 0.5) * scale
    # Pixels beyond the border too: as many as any filter reaches.
    reach = int(np.ceil(2 * stretch)) + 1
    pixels = np.arange(-reach, size + reach)
    distance = np.abs(pixels + 0.5 - centres[:, None]) / stretch
    weights = _triangle(distance) if method == "bilinear" else _cubic(distance, antialias)
    if antialias:
        inside = weights[:, reach : reach + size]
        return inside / inside.sum(axis=1, keepdims=True)
    folded = np.zeros((out, size))
    np.add.at(folded.T, np.clip(pixels, 0, size - 1), weights.T)
    return folded


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - x, 0)


def _cubic(x: np.ndarray, antialias: bool) -> np.ndarray:
    """Keys' kernel of distances ``x >= 0``."""
    a = -0.5 if antialias else -0.75
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))
