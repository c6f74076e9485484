"""Sinkhorn-Knopp teacher targets (SwAV, arXiv:2006.09882, section 3.1; arXiv:2304.07193)."""

import functools

import jax
import jax.numpy as jnp

from dinojax.precision import widen
from dinojax.typing import Array, Float


def sinkhorn_knopp(
    logits: Float[Array, "*R K"],
    temperature: float | Float[Array, ""],
    *,
    iterations: int = 3,
) -> Float[Array, "*R K"]:
    """Targets with rows that sum to one and prototypes used about equally over all rows.

    All leading axes together are the rows, over the whole batch. Row and column scales are found by
    matrix-vector products on a matrix that is exponentiated once: each of its rows and each of its
    columns has a largest entry of 1, so no logits overflow and no sum vanishes. (On CPU a sum over
    rows is 50 times slower as a reduction than as a product.)
    """
    rows = tuple(range(logits.ndim - 1))
    scaled = widen(logits) / temperature
    scaled = scaled - scaled.max(axis=rows)
    peak = scaled.max(axis=-1)
    kernel = jnp.exp(scaled - peak[..., None])
    dot = functools.partial(jnp.tensordot, precision=jax.lax.Precision.HIGHEST)

    # Q = row * kernel * column: normalise prototypes over rows, then each row over prototypes.
    # The first column scales undo the shift by column; the shift by row is part of the start.
    row = jnp.exp(peak)
    column = jnp.ones(logits.shape[-1:], kernel.dtype)
    for _ in range(iterations):
        column = 1 / dot(row, kernel, axes=len(rows))
        row = 1 / dot(kernel, column, axes=1)
    return row[..., None] * kernel * column
