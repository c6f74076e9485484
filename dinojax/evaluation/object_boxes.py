"""Boxes of objects: from maps of patches or pixels, and how well they agree (CorLoc).

Boxes are top, left, bottom, right in pixels, the last two excluded.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from dinojax.typing import Bool, Float, Shaped

Box = tuple[float, float, float, float]
HIT = 0.5
"""IoU from which an object counts as found (Deselaers et al., 2010)."""


def map_boxes(
    map: Shaped[np.ndarray, "H W"], ignored: Sequence[int], least_pixels: int
) -> list[Box]:
    """Of every connected region of one class, apart from those ignored and very small ones.

    Objects of one class that touch are one: a map of classes does not part them.
    """
    found: list[Box] = []
    for number in np.unique(map):
        if number in ignored:
            continue
        _, _, regions, _ = cv2.connectedComponentsWithStats((map == number).astype(np.uint8))
        found += [
            (float(top), float(left), float(top + height), float(left + width))
            for left, top, width, height, pixels in regions[1:].tolist()
            if pixels >= least_pixels
        ]
    return found


def region_box(mask: Bool[np.ndarray, "h w"], place: tuple[int, int], cell_px: float) -> Box:
    """Of the region of patches that `place` lies in; neighbours share a side.

    Raises:
        ValueError: `place` is not in the mask.
    """
    if not mask[place]:
        raise ValueError(f"place={place} is not in the mask; give one of its patches")
    _, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    rows, columns = np.nonzero(regions == regions[place])
    box = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    top, left, bottom, right = (float(side * cell_px) for side in box)
    return top, left, bottom, right


def box_iou(first: Box, second: Box) -> float:
    corners = np.array([first, second])
    shared = np.prod(np.maximum(corners[:, 2:].min(0) - corners[:, :2].max(0), 0))
    areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    return float(shared / (areas.sum() - shared))


def corloc(found: Sequence[Box], true: Sequence[Sequence[Box]]) -> float:
    """Share of images whose one found box overlaps an object's by an IoU of 0.5 or more.

    Images without an object do not count.

    Raises:
        ValueError: there is no object.
    """
    hits: Sequence[bool] = [
        max(box_iou(box, other) for other in boxes) >= HIT
        for box, boxes in zip(found, true, strict=True)
        if boxes
    ]
    if not hits:
        raise ValueError("no image has an object; give images with segmentation maps")
    return float(np.mean(hits))


def centre_of(scores: Float[np.ndarray, "h w"]) -> tuple[int, int]:
    """Where the largest value is."""
    row, column = divmod(int(scores.argmax()), scores.shape[1])
    return row, column
