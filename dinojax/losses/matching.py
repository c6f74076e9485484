"""Distances between a student's features and those of a teacher, one value per token.

As in AM-RADIO (arXiv:2312.06709, section 3.3), which adds them with weights of 0.9 and 0.1. The
rest of a loss, its mean over tokens, is the caller's.
"""

import jax.numpy as jnp

from dinojax.precision import unit_rows, widen
from dinojax.typing import Array, Float

EPSILON = 1e-8
STANDARD_EPSILON = 1e-6


def cosine_distance(
    student: Float[Array, "*R D"], teacher: Float[Array, "*R D"]
) -> Float[Array, "*R"]:
    """``1 - cos``: 0 for the same direction, 2 for the opposite one."""
    ours, theirs = (unit_rows(x, EPSILON) for x in (student, teacher))
    return 1 - (ours * theirs).sum(axis=-1)


def smooth_l1(
    student: Float[Array, "*R D"], teacher: Float[Array, "*R D"], *, beta: float = 1.0
) -> Float[Array, "*R"]:
    """Mean over D of ``d^2 / (2 beta)`` where ``|d| < beta``, else ``|d| - beta / 2``.

    As ``torch.nn.functional.smooth_l1_loss`` (arXiv:1504.08083, Eq. 3, with `beta` = 1).

    Raises:
        ValueError: `beta` is not above 0.
    """
    if beta <= 0:
        raise ValueError(f"beta={beta} must be above 0; use 1.0")
    # The parabola ends at beta and the line starts there: no branch, so no gradient of a branch.
    size = jnp.abs(widen(student) - widen(teacher))
    inner = jnp.minimum(size, beta)
    return (inner**2 / (2 * beta) + (size - inner)).mean(axis=-1)


def standardize(x: Float[Array, "*R D"]) -> Float[Array, "*R D"]:
    """Each row with mean 0 and variance 1: a layer norm without gain and bias, at least float32.

    A teacher's features differ in scale from model to model and from token to token; losses that
    are no cosines would follow the largest.
    """
    wide = widen(x)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + STANDARD_EPSILON)
