"""Intersection over union of classes, from counts of pixels."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.data.map_batches import NO_CLASS
from dinojax.typing import Array, Int


class SegmentationScores(NamedTuple):
    """IoUs in 0..1."""

    miou: float
    """Mean over the classes that are in the held-out maps or predicted there."""
    iou: dict[int, float]
    """By class number, of those."""


def score(confusion: Int[np.ndarray, "K K"], classes: Sequence[int]) -> SegmentationScores:
    """IoU = intersection / union of pixels, from counts ``[true class, predicted class]``.

    Raises:
        ValueError: there are no pixels.
    """
    if not confusion.any():
        raise ValueError("the held-out images have no labelled pixel; give maps of other images")
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    iou = {c: float(hits[i] / union[i]) for i, c in enumerate(classes) if union[i]}
    return SegmentationScores(float(np.mean(list(iou.values()))), iou)


def count(predicted: Int[Array, "*s"], labels: Int[Array, "*s"], classes: int) -> Int[Array, "K K"]:
    """Pixels by ``[true class, predicted class]``; those labelled -1 count nowhere."""
    cell = jnp.where(labels < 0, classes**2, labels * classes + predicted)
    counts = jnp.bincount(cell.ravel(), length=classes**2 + 1)[:-1]
    return counts.reshape(classes, classes)


@jax.jit
def class_index(
    maps: Int[Array | np.ndarray, "*s"], numbers: Int[Array | np.ndarray, " K"]
) -> Int[Array, "*s"]:
    """Positions of the classes of a map in ascending `numbers`; -1: it is not one of them."""
    place = jnp.searchsorted(jnp.asarray(numbers), maps).clip(0, len(numbers) - 1)
    return jnp.where(jnp.asarray(numbers)[place] == maps, place, NO_CLASS)
