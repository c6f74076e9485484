"""Softmax teacher targets with a moving-average centre (DINO, arXiv:2104.14294, Eq. 4)."""

import jax

from dinojax.precision import widen
from dinojax.typing import Array, Float


def softmax_center(
    logits: Float[Array, "*R K"],
    center: Float[Array, " K"],
    temperature: float | Float[Array, ""],
) -> Float[Array, "*R K"]:
    """``softmax((logits - center) / temperature)`` over prototypes."""
    return jax.nn.softmax((widen(logits) - center) / temperature, axis=-1)


def update_center(
    center: Float[Array, " K"], logits: Float[Array, "*R K"], *, momentum: float = 0.9
) -> Float[Array, " K"]:
    """Moving average of the mean teacher logit; a step's targets use the centre of earlier ones."""
    mean = widen(logits).mean(axis=tuple(range(logits.ndim - 1)))
    return momentum * center + (1 - momentum) * mean
