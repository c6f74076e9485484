"""The unit every data source hands out: one image and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Record:
    """One item of a random-access source (design.md, section 2: "records in").

    Attributes:
        image: pixels, uint8 [H, W, C], or the encoded bytes of an image file; decoding is
            `data/decode.py`'s work, so that a source never pays for a record that is not used.
        id: a name that is unique within the source and stable across runs; it appears in replay
            bundles and logs, e.g. ``"scenes/train/000123"``.
        label: the class, 0-based, or None where the source has none.
        segmentation: integer classes per pixel [H, W], 0 = background, or None.
        depth: float32 metres per pixel [H, W], positive, or None.
    """

    image: np.ndarray | bytes
    id: str
    label: int | None = None
    segmentation: np.ndarray | None = None
    depth: np.ndarray | None = None
