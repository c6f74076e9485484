"""Bicubic resampling of feature grids as PyTorch's `interpolate`: products with constant weights.

Its two filters differ. Without antialiasing: Keys' cubic with a = -3/4 on four taps, of which those
beyond the border fall on it. With antialiasing: a = -1/2, widened by the step when shrinking, cut
at the border and normalised, as in Pillow (`views.resample` does this for boxes known at run time).
"""

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.precision import widen
from dinojax.typing import Array, Float


def bicubic_weights(
    out: int, size: int, *, offset: float = 0.0, antialias: bool = False
) -> Float[np.ndarray, "out size"]:
    """Weight of each of `size` samples in each of `out`; rows sum to 1.

    Output o lies at ``(o + 1/2) size / (out + offset) - 1/2``: with an `offset` the step is that of
    the scale factor ``(out + offset) / size`` which DINOv2 asks PyTorch for, not ``size / out``.
    """
    step = size / (out + offset)
    centres = (np.arange(out)[:, None] + 0.5) * step - 0.5
    if antialias:
        weights = _keys_cubic((np.arange(size) - centres) / max(step, 1), -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    weights = np.zeros((out, size))
    taps = np.floor(centres).astype(int) + np.arange(-1, 3)
    rows = np.broadcast_to(np.arange(out)[:, None], taps.shape)
    np.add.at(weights, (rows, taps.clip(0, size - 1)), _keys_cubic(taps - centres, -0.75))
    return weights


def resize_bicubic(
    x: Float[Array, "*b H W D"],
    out_hw: tuple[int, int],
    *,
    offset: float = 0.0,
    antialias: bool = False,
) -> Float[Array, "*b h w D"]:
    """Both axes of a grid resampled, in at least float32 and then in the dtype of `x`."""
    wide = widen(x)
    rows, columns = (
        jnp.asarray(bicubic_weights(n, size, offset=offset, antialias=antialias), wide.dtype)
        for n, size in zip(out_hw, x.shape[-3:-1], strict=True)
    )
    exact = jax.lax.Precision.HIGHEST
    wide = jnp.einsum("yh,...hwd->...ywd", rows, wide, precision=exact)
    return jnp.einsum("xw,...ywd->...yxd", columns, wide, precision=exact).astype(x.dtype)


def _keys_cubic(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel (Keys 1981): support 2, slope `a` at 1."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))
