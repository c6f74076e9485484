"""Nearest class mean of centred, normalised features: SimpleShot's CL2N (arXiv:1911.04623).

Nothing to choose and nothing to train, so few shots per class measure the features alone.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.precision import unit_rows
from dinojax.typing import Array, Float, Int


@jax.jit(static_argnames=("num_classes", "top"))
def rank_by_centroid(
    shots: Float[Array | np.ndarray, "n D"],
    labels: Int[Array | np.ndarray, " n"],
    queries: Float[Array | np.ndarray, "m D"],
    *,
    num_classes: int,
    top: int,
) -> Int[Array, "m T"]:
    """Classes of the queries, the nearest mean of its shots first; classes without shots last."""
    middle = jnp.asarray(shots).mean(axis=0)
    shots, queries = (unit_rows(jnp.asarray(x) - middle) for x in (shots, queries))
    member = jax.nn.one_hot(labels, num_classes, dtype=shots.dtype)
    exact = jax.lax.Precision.HIGHEST
    count = member.sum(0)
    means = jnp.matmul(member.T, shots, precision=exact) / jnp.maximum(count, 1)[:, None]
    # |q - c|^2 without |q|^2, which all classes share.
    distance = jnp.square(means).sum(1) - 2 * jnp.matmul(queries, means.T, precision=exact)
    return jax.lax.top_k(jnp.where(count > 0, -distance, -jnp.inf), top)[1]
