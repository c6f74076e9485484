"""Softmax teacher targets with a moving-average centre (DINO, arXiv:2104.14294, Eq. 4)."""

import jax
import jax.numpy as jnp

from dinojax.precision import widen
from dinojax.typing import Array, Bool, Float


def softmax_center(
    logits: Float[Array, "*R K"],
    center: Float[Array, " K"],
    temperature: float | Float[Array, ""],
) -> Float[Array, "*R K"]:
    """``softmax((logits - center) / temperature)`` over prototypes."""
    return jax.nn.softmax((widen(logits) - center) / temperature, axis=-1)


def update_center(
    center: Float[Array, " K"],
    logits: Float[Array, "*R K"],
    *,
    momentum: float = 0.9,
    real: Bool[Array, "*R"] | None = None,
) -> Float[Array, " K"]:
    """Moving average of the mean teacher logit; a step's targets use the centre of earlier ones.

    The mean is over all rows or over those that are `real`.
    """
    mean = mean_of_rows(widen(logits), real)
    return momentum * center + (1 - momentum) * mean


def mean_of_rows(x: Float[Array, "*R F"], real: Bool[Array, "*R"] | None) -> Float[Array, " F"]:
    """Over all leading axes; of the `real` rows alone, if given."""
    rows = tuple(range(x.ndim - 1))
    if real is None:
        return x.mean(axis=rows)
    return jnp.where(real[..., None], x, 0).sum(axis=rows) / real.sum()
