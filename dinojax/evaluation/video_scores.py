"""How well masks follow objects through a video: region J and boundary F of DAVIS.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR
2016), section 4, with the conventions of the evaluation code of DAVIS 2017 (arXiv:1704.00675).
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from dinojax.typing import Bool, Shaped

TOLERANCE = 0.008
"""Of the image's diagonal: how far two boundaries may lie apart."""

Mask = Bool[np.ndarray, "H W"]
Numbers = Shaped[np.ndarray, "H W"]  # integers of any width


class VideoScores(NamedTuple):
    """Of one object: means over frames, 0..1."""

    region: float
    boundary: float


def region_similarity(found: Mask, true: Mask) -> float:
    """J: intersection over union; 1 if both are empty."""
    union = (found | true).sum()
    return float((found & true).sum() / union) if union else 1.0


def boundary_accuracy(found: Mask, true: Mask) -> float:
    """F: harmonic mean of precision and recall of the boundary's pixels, up to `TOLERANCE`."""
    reach = int(np.ceil(TOLERANCE * np.hypot(*true.shape)))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (y**2 + x**2 <= reach**2).astype(np.uint8)
    edges = [boundary(mask) for mask in (found, true)]
    wide = [cv2.dilate(edge.astype(np.uint8), disk).astype(bool) for edge in edges]
    counts = [int(edge.sum()) for edge in edges]
    if not all(counts):  # nothing to find, or nothing found
        precision, recall = (1.0, 0.0) if counts[1] else (0.0, 1.0)
        if not any(counts):
            precision = recall = 1.0
    else:
        precision = (edges[0] & wide[1]).sum() / counts[0]
        recall = (edges[1] & wide[0]).sum() / counts[1]
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def boundary(mask: Mask) -> Mask:
    """Pixels that differ from the next one to the right, below, or both."""
    right, below = np.roll(mask, -1, 1), np.roll(mask, -1, 0)
    right[:, -1], below[-1] = mask[:, -1], mask[-1]
    corner = np.roll(below, -1, 1)
    corner[:, -1] = below[:, -1]
    edge = (mask ^ right) | (mask ^ below) | (mask ^ corner)
    # As published: the last row looks only right, the last column only down.
    edge[-1], edge[:, -1] = (mask ^ right)[-1], (mask ^ below)[:, -1]
    edge[-1, -1] = False
    return edge


def score_object(found: Sequence[Numbers], true: Sequence[Numbers], number: int) -> VideoScores:
    """One object's means over frames.

    Raises:
        ValueError: there are no frames.
    """
    if not found:
        raise ValueError("the video has no frames to score; give at least two with masks")
    pairs = [(one == number, other == number) for one, other in zip(found, true, strict=True)]
    return VideoScores(
        float(np.mean([region_similarity(*pair) for pair in pairs])),
        float(np.mean([boundary_accuracy(*pair) for pair in pairs])),
    )
