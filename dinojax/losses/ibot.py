"""Cross-entropy on masked patch tokens (iBOT, arXiv:2111.07832, Eq. 3)."""

from dinojax.losses.dino import cross_entropy
from dinojax.typing import Array, Float


def ibot_loss(
    student_logits: Float[Array, "G M K"],
    teacher_probs: Float[Array, "G M K"],
    weights: Float[Array, "G M"],
    *,
    images: int,
    temperature: float = 0.1,
) -> Float[Array, ""]:
    """Weighted sum over masked tokens, divided by the number of crops.

    `weights` are one over the number of masked tokens in the token's own crop. `images` counts all
    global crops, masked or not (a property of the reference): with half of them masked the loss
    is about half the mean cross-entropy per token.
    """
    return (weights * cross_entropy(student_logits, teacher_probs, temperature)).sum() / images
