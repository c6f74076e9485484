"""The unit every data source hands out: one image and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Record:
    """One item of a random-access source (design.md, section 2: "records in").

    Sources hand out what they store; `data/decode.py` and `data/maps.py` decode it, so that nobody
    pays for a record or a map that is not used.

    Attributes:
        image: pixels, uint8 [H, W, C], or the encoded bytes of an image file.
        id: a name that is unique within the source and stable across runs; it appears in replay
            bundles and logs, e.g. ``"scenes/train/000123"``.
        label: the class, 0-based, or None where the source has none.
        segmentation: integer classes per pixel [H, W], 0 = background, the bytes of a file that
            holds them, or None. Rows and columns are those of the stored image.
        depth: metres per pixel [H, W], float32, positive, 0 = unknown, the bytes of a file that
            holds them, or None. Rows and columns are those of the stored image.
    """

    image: np.ndarray | bytes
    id: str
    label: int | None = None
    segmentation: np.ndarray | bytes | None = None
    depth: np.ndarray | bytes | None = None
