"""Cross-entropy between student and teacher crops on the CLS token (arXiv:2104.14294, Eq. 2)."""

import jax
import jax.numpy as jnp
import numpy as np

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
    pairs = crop_pairs(students, teacher_probs.shape[0], ignore_diagonal=ignore_diagonal)
    # Every student crop meets the sum of its teachers: one pass over the logits, not one a pair.
    targets = jnp.einsum("st,tbk->sbk", pairs.astype(teacher_probs.dtype), teacher_probs)
    return cross_entropy(student_logits, targets, temperature).sum() / (images * pairs.sum())


def crop_pairs(students: int, teachers: int, *, ignore_diagonal: bool) -> np.ndarray:
    """``[students, teachers]``: 1 where two crops are compared, else 0."""
    return np.ones((students, teachers)) - (np.eye(students, teachers) if ignore_diagonal else 0)


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
