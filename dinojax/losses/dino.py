"""Cross-entropy between student and teacher crops on the CLS token (arXiv:2104.14294, Eq. 2)."""

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.precision import widen
from dinojax.typing import Array, Float


def dino_loss(
    student_logits: Float[Array, "s B K"],
    teacher_probs: Float[Array, "t B K"],
    weights: Float[Array, " s"],
    *,
    temperature: float = 0.1,
    ignore_diagonal: bool = False,
) -> tuple[Float[Array, ""], Float[Array, " s"]]:
    """Mean over crop pairs and images of ``-sum_k p_teacher log softmax(z_student / temperature)``.

    `weights` multiply the pairs of each student crop. With `ignore_diagonal` the pairs (i, i), the
    same crop on both sides, are left out of sum and mean.

    Returns:
        The loss, and each student crop's own mean, unweighted and without a gradient.
    """
    pairs = crop_pairs(len(student_logits), len(teacher_probs), ignore_diagonal=ignore_diagonal)
    # Every student crop meets the sum of its teachers: one pass over the logits, not one a pair.
    targets = jnp.einsum("st,tbk->sbk", pairs.astype(teacher_probs.dtype), teacher_probs)
    costs = cross_entropy(student_logits, targets, temperature).mean(axis=1)
    return (weights * costs).sum() / pairs.sum(), jax.lax.stop_gradient(costs / pairs.sum(axis=1))


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
