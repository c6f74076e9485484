"""Sinkhorn-Knopp teacher targets (SwAV, arXiv:2006.09882, section 3.1; arXiv:2304.07193)."""

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

    All leading axes together are the rows, over the whole batch. Works on log-potentials, so large
    logits cannot overflow; the matrix of logits itself is never rewritten between iterations.
    """
    scaled = widen(logits) / temperature
    rows = tuple(range(logits.ndim - 1))
    # log Q = scaled - row - column: normalise prototypes over rows, then each row over prototypes.
    row = jnp.zeros((*logits.shape[:-1], 1), scaled.dtype)
    column = jnp.zeros(logits.shape[-1:], scaled.dtype)
    for _ in range(iterations):
        column = jax.nn.logsumexp(scaled - row, axis=rows)
        row = jax.nn.logsumexp(scaled - column, axis=-1, keepdims=True)
    return jnp.exp(scaled - row - column)
