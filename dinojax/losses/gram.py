"""Gram anchoring: keep patch similarities close to an earlier teacher's (DINOv3, section 4.2)."""

import jax.numpy as jnp

from dinojax.precision import widen
from dinojax.typing import Array, Float

EPSILON = 1e-12
NEGATIVES = ("keep", "remove", "remove_teacher")


def gram_loss(
    student: Float[Array, "*B N D"],
    teacher: Float[Array, "*B N E"],
    *,
    normalized: bool = True,
    negatives: str = "keep",
) -> Float[Array, ""]:
    """Mean squared difference of patch-similarity matrices ``X X^T`` (DINOv3, Eq. 2).

    One matrix per leading index: pass ``[B, P, D]`` for one per image, ``[G, b * P, D]`` for one
    per group. `normalized` takes cosines. `negatives` sets negative similarities to zero in both
    ("remove") or in the teacher only ("remove_teacher"; the reference's ``remove_only_teacher_neg``
    intends more but does this).

    Raises:
        ValueError: unknown `negatives`.
    """
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives={negatives!r} is unknown; use one of {NEGATIVES}")
    ours, theirs = (_similarities(x, normalized) for x in (student, teacher))
    if negatives != "keep":
        theirs = jnp.maximum(theirs, 0)
    if negatives == "remove":
        ours = jnp.where(ours > 0, ours, 0)
    return jnp.square(ours - theirs).mean()


def _similarities(x: Float[Array, "*B N D"], normalized: bool) -> Float[Array, "*B N N"]:
    x = widen(x)
    products = jnp.einsum("...nd,...md->...nm", x, x)
    if not normalized:
        return products
    # Lengths come last: a TPU's one pass rounds factors to bfloat16, which features mostly are.
    inverse = 1 / jnp.sqrt(jnp.maximum(jnp.square(x).sum(axis=-1), EPSILON**2))
    return products * inverse[..., :, None] * inverse[..., None, :]
