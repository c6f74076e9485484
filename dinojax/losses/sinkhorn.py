"""Sinkhorn-Knopp teacher targets (SwAV, arXiv:2006.09882, section 3.1; arXiv:2304.07193)."""

import functools

import jax
import jax.numpy as jnp

from dinojax.precision import widen
from dinojax.typing import Array, Bool, Float


def sinkhorn_knopp(
    logits: Float[Array, "*R K"],
    temperature: float | Float[Array, ""],
    *,
    iterations: int = 3,
    real: Bool[Array, "*R"] | None = None,
) -> Float[Array, "*R K"]:
    """Targets with rows that sum to one and prototypes used about equally over all rows (Eq. 3).

    Rows that are not `real` have no part in it; their targets are 0.

    All leading axes together are the rows, over the whole batch. Row and column scales are found by
    matrix-vector products on a matrix that is exponentiated once: each of its rows and each of its
    columns has a largest entry of 1, so no logits overflow and no sum vanishes. (On CPU a sum over
    rows is 50 times slower as a reduction than as a product.)

    Equal to alternating `logsumexp`, without its exponentials in every iteration: an iteration
    multiplies a row's scale times a column's by at most R K, so an entry that underflows here,
    below 1e-38, is a target of at most 1e-38 (R K)^iterations. That is nothing after the usual 3,
    and something after tens of iterations on logits that lie hundreds of temperatures apart.
    Logits are subtracted before the temperature magnifies their rounding: float32 is usually more
    exact here than in log space.
    """
    rows = tuple(range(logits.ndim - 1))
    shifted = widen(logits)
    if real is not None:
        shifted = jnp.where(real[..., None], shifted, -jnp.inf)
    shifted = shifted - shifted.max(axis=rows)
    peak = shifted.max(axis=-1)
    if real is not None:
        peak = jnp.where(real, peak, 0)
    kernel = jnp.exp((shifted - peak[..., None]) / temperature)
    dot = functools.partial(jnp.tensordot, precision=jax.lax.Precision.HIGHEST)

    # Q = row * kernel * column: each prototype gets its share of the rows, then each row sums to 1.
    # The first column scales undo the shift by column; the shift by row is part of the start.
    row = jnp.exp(peak / temperature)
    column = jnp.ones(logits.shape[-1:], kernel.dtype)
    count = row.size if real is None else real.sum()
    share = count / column.size  # anything else would make the scales drift apart
    for _ in range(iterations):
        column = share / dot(row, kernel, axes=len(rows))
        row = 1 / dot(kernel, column, axes=1)
        if real is not None:
            row = jnp.where(real, row, 0)
    return row[..., None] * kernel * column
