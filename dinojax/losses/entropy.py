"""How much a teacher's targets leave open: their mean entropy, in nats.

A student's cross-entropy with targets is their entropy plus how far it is from them (the
Kullback-Leibler divergence), so it is at least this.
"""

import jax
import jax.numpy as jnp

from dinojax.losses.centering import softmax_center
from dinojax.losses.chunked import TeacherRows
from dinojax.losses.chunks import per_shard, to_chunks
from dinojax.mesh import gather
from dinojax.precision import widen
from dinojax.typing import Array, Float


def mean_entropy(
    probs: Float[Array, "*R K"], weights: Float[Array, "*R"] | None = None
) -> Float[Array, ""]:
    """Mean over rows of ``-sum_k p log p``; 0 log 0 = 0. `weights` need not sum to one."""
    rows = jax.scipy.special.entr(widen(probs)).sum(axis=-1)
    return rows.mean() if weights is None else (weights * rows).sum() / weights.sum()


def chunked_mean_entropy(
    teacher: TeacherRows, weights: Float[Array, "A B"] | None = None, *, chunk: int | None = None
) -> Float[Array, ""]:
    """`mean_entropy` of targets that are not computed yet.

    Args:
        teacher: features ``[V, B, F]`` of CLS tokens; with `weights` ``[G, M, F]`` of patches, and
            the weights are ``[G, M]``.
        chunk: how many rows of logits each device holds at a time. None: all.
    """
    if weights is None:
        features = per_shard("V (Z b) F -> Z (b V) F", teacher.features)
        weights = jnp.ones(features.shape[:2], teacher.center.dtype)
    else:
        features = per_shard("(Z g) M F -> Z (g M) F", teacher.features)
        weights = per_shard("(Z g) M -> Z (g M)", weights)
    columns = gather(teacher.prototypes.astype(features.dtype), tensor_axis=-1, pinned=True)

    def add(sums: Float[Array, " Z"], given) -> tuple[Float[Array, " Z"], None]:
        x, weight = given
        probs = softmax_center(x @ columns, teacher.center, teacher.temperature)
        rows = jax.scipy.special.entr(probs).sum(axis=-1)
        return sums + (weight * rows).sum(axis=1), None

    zeros = jnp.zeros(features.shape[0], weights.dtype)
    sums, _ = jax.lax.scan(add, zeros, to_chunks((features, weights), chunk))
    return sums.sum() / weights.sum()
