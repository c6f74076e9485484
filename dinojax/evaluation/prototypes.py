"""What heads make of images: how many prototypes, how decided, and whether two networks agree."""

import math

import jax.numpy as jnp

from dinojax.losses.entropy import mean_entropy
from dinojax.typing import Array, Float


def occupancy(logits: Float[Array, "R K"]) -> Float[Array, ""]:
    """Distinct nearest prototypes as a share of the most that R rows can have, 0..1.

    Of raw logits: targets have been spread over the prototypes by centering, and a collapse of the
    network does not show in them.
    """
    rows, prototypes = logits.shape
    used = jnp.zeros(prototypes, bool).at[logits.argmax(axis=-1)].set(True)
    return used.sum() / min(rows, prototypes)


def agreement(one: Float[Array, "R K"], other: Float[Array, "R K"]) -> Float[Array, ""]:
    """Share of the rows, 0..1, for which both networks name the same prototype."""
    return (one.argmax(axis=-1) == other.argmax(axis=-1)).mean()


def entropy_share(probs: Float[Array, "*R K"]) -> Float[Array, ""]:
    """Mean entropy of targets as a share of log K: 0 for one prototype each, 1 for all alike."""
    return mean_entropy(probs) / math.log(probs.shape[-1])
