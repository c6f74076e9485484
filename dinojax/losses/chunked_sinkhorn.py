"""Sinkhorn-Knopp over rows whose logits are never all there at once.

`sinkhorn_knopp` ends with normalised rows, so its targets are ``softmax((logits - center) / T)``
for some centre per prototype: what rows have to do with each other is one vector ``[K]``.
"""

import jax
import jax.numpy as jnp

from dinojax.losses.centering import softmax_center
from dinojax.losses.chunks import to_chunks
from dinojax.precision import widen
from dinojax.typing import Array, Bool, Float


def sinkhorn_center(
    features: Float[Array, "Z R F"],
    prototypes: Float[Array, "F K"],
    temperature: float | Float[Array, ""],
    *,
    iterations: int = 3,
    chunk: int | None = None,
    real: Bool[Array, "Z R"] | None = None,
) -> Float[Array, " K"]:
    """The centre with which `softmax_center` gives `sinkhorn_knopp` of ``features @ prototypes``.

    Every iteration makes the logits of all rows once more, `chunk` rows on each device at a time
    (None: all). A sum over a column lies between 1 / K and R, so no logarithm of it overflows. Rows
    that are not `real` have no part in it. Prototypes as in `TeacherRows`.
    """
    shards, rows = features.shape[:2]
    count = shards * rows if real is None else real.sum()
    real = jnp.ones((shards, rows), bool) if real is None else real
    parts = to_chunks((features, real), chunk)
    share = count / prototypes.shape[1]

    def log_sums(carry, given):
        """Running logarithm of the columns' sums of ``exp(logits / T)``: its peak and the rest."""
        peak, rest = carry
        x, real = given
        scaled = jnp.where(real[..., None], widen(x @ prototypes) / temperature, -jnp.inf)
        higher = jnp.maximum(peak, scaled.max(axis=1))
        sums = jnp.exp(scaled - higher[:, None]).sum(axis=1)
        return (higher, rest * jnp.exp(peak - higher) + sums), None

    def usage(center: Float[Array, " K"]) -> Float[Array, " K"]:
        """The columns' sums of targets, rows normalised."""

        def add(sums, given):
            x, real = given
            probs = softmax_center(x @ prototypes, center, temperature)
            return sums + jnp.einsum("zrk,zr->zk", probs, real.astype(probs.dtype)), None

        return jax.lax.scan(add, zeros, parts)[0].sum(axis=0)

    zeros = jnp.zeros((shards, prototypes.shape[1]), widen(features).dtype)
    # The lowest finite number, not -inf, whose difference with itself would be NaN.
    lowest = jnp.full_like(zeros, jnp.finfo(zeros.dtype).min)
    (peak, rest), _ = jax.lax.scan(log_sums, (lowest, zeros), parts)
    center = temperature * (jax.nn.logsumexp(peak, axis=0, b=rest) - jnp.log(share))
    for _ in range(iterations - 1):
        center = center + temperature * jnp.log(usage(center) / share)
    return center
