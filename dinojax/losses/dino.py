"""Cross-entropy between student and teacher crops on the CLS token (arXiv:2104.14294, Eq. 2)."""

import jax
import jax.numpy as jnp

from dinojax.precision import widen
from dinojax.typing import Array, Float


def dino_loss(
    student_logits: Float[Array, "s B K"],
    teacher_probs: Float[Array, "t B K"],
    *,
    temperature: float = 0.1,
    ignore_diagonal: bool = False,
) -> Float[Array, ""]:
    """Mean over crop pairs and images of ``-sum_k p_teacher log softmax(z_student / temperature)``.

    With `ignore_diagonal` the pairs (i, i), the same crop on both sides, are left out of sum and
    mean.
    """
    students, images, _ = student_logits.shape
    teachers = teacher_probs.shape[0]
    pairs = jnp.ones((students, teachers), teacher_probs.dtype)
    if ignore_diagonal:
        pairs = pairs - jnp.eye(students, teachers, dtype=pairs.dtype)
    count = students * teachers - (min(students, teachers) if ignore_diagonal else 0)
    # Every student crop meets the sum of its teachers: one pass over the logits, not one a pair.
    targets = jnp.einsum("st,tbk->sbk", pairs, teacher_probs)
    return cross_entropy(student_logits, targets, temperature).sum() / (images * count)


def cross_entropy(
    logits: Float[Array, "*R K"], targets: Float[Array, "*R K"], temperature: float
) -> Float[Array, "*R"]:
    """``-sum_k target log softmax(logits / temperature)`` per row; targets need not sum to one.

    The inner product is written as one: a sum of products takes XLA on CPU much longer.
    """
    scaled = widen(logits) / temperature
    log_norm = jax.nn.logsumexp(scaled, axis=-1)
    targets = widen(targets)
    chosen = jnp.einsum("...k,...k->...", targets, scaled, precision=jax.lax.Precision.HIGHEST)
    return targets.sum(axis=-1) * log_norm - chosen
