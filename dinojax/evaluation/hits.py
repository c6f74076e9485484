"""Accuracies of ranked classes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

TOP = 5


def accuracies(
    ranked: Int[np.ndarray, "m T"],
    labels: Int[np.ndarray, " m"],
    accepted: Sequence[tuple[int, ...]] | None = None,
) -> dict[str, float]:
    """``top1``, with more than `TOP` ranks' worth of classes ``top5``, and ``mean_class``, 0..1.

    Args:
        ranked: classes of each row, the most likely first.
        accepted: classes that are right for each row, instead of its label alone. Then there is no
            mean over classes.
    """
    right = hits(ranked, labels, accepted)
    found = {"top1": float(right[:, 0].mean())}
    if ranked.shape[1] >= TOP:
        found["top5"] = float(right[:, :TOP].any(1).mean())
    if accepted is None:
        classes = [right[labels == label, 0].mean() for label in np.unique(labels)]
        found["mean_class"] = float(np.mean(classes))
    return found


def hits(
    ranked: Int[np.ndarray, "m T"],
    labels: Int[np.ndarray, " m"],
    accepted: Sequence[tuple[int, ...]] | None = None,
) -> Bool[np.ndarray, "m T"]:
    """Whether each of the ranked classes is right."""
    if accepted is None:
        return ranked == labels[:, None]
    return np.array([np.isin(one, right) for one, right in zip(ranked, accepted, strict=True)])
