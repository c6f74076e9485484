"""How much a teacher's targets leave open: their mean entropy, in nats.

A student's cross-entropy with targets is their entropy plus how far it is from them (the
Kullback-Leibler divergence), so it is at least this.
"""

import jax

from dinojax.precision import widen
from dinojax.typing import Array, Float


def mean_entropy(probs: Float[Array, "*R K"]) -> Float[Array, ""]:
    """Mean over rows of ``-sum_k p log p``; 0 log 0 = 0."""
    return jax.scipy.special.entr(widen(probs)).sum(axis=-1).mean()
