"""`Tally`: what there is to know about many records, added up exactly and in any order."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

LEVELS = 256


def _no_channels() -> Int64[np.ndarray, "channels levels"]:
    return np.zeros((0, LEVELS), np.int64)


@dataclass(frozen=True)
class Tally:
    """Counts over records; ``+`` joins two.

    Attributes:
        records: how many.
        content_bytes: of the records themselves.
        reencoded: images that were shrunk.
        tfds_images: those that `tfds_export.is_tfds_image`.
        segmentations: records with a segmentation map; `depths`: with a depth map.
        classes: one more than the largest class in a segmentation map, 0 without.
        labels: one more than the largest label, 0 without.
        histogram: pixels by channel and level; no channels without records.
    """

    records: int = 0
    content_bytes: int = 0
    reencoded: int = 0
    tfds_images: int = 0
    segmentations: int = 0
    depths: int = 0
    classes: int = 0
    labels: int = 0
    histogram: Int64[np.ndarray, "channels levels"] = field(default_factory=_no_channels)

    def __add__(self, other: Tally) -> Tally:
        """Raises ValueError where one has images of other channels than the other."""
        ours, theirs = self.histogram, other.histogram
        if len(ours) and len(theirs) and len(ours) != len(theirs):
            raise ValueError(
                f"images of {len(ours)} and of {len(theirs)} channels in one source; split it"
            )
        return Tally(
            records=self.records + other.records,
            content_bytes=self.content_bytes + other.content_bytes,
            reencoded=self.reencoded + other.reencoded,
            tfds_images=self.tfds_images + other.tfds_images,
            segmentations=self.segmentations + other.segmentations,
            depths=self.depths + other.depths,
            classes=max(self.classes, other.classes),
            labels=max(self.labels, other.labels),
            histogram=ours + theirs if len(ours) == len(theirs) else ours if len(ours) else theirs,
        )

    def mean(self) -> list[float]:
        """Mean of each channel over all pixels, 0..1."""
        return self._moment(1).tolist()

    def std(self) -> list[float]:
        """Standard deviation of each channel over all pixels, 0..1."""
        return np.sqrt(np.maximum(self._moment(2) - self._moment(1) ** 2, 0)).tolist()

    def _moment(self, power: int) -> np.ndarray:
        levels = (np.arange(LEVELS) / (LEVELS - 1)) ** power
        return self.histogram @ levels / self.histogram.sum(1)

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "histogram": self.histogram.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Tally:
        histogram = np.array(values["histogram"], np.int64).reshape(-1, LEVELS)
        return cls(**{**values, "histogram": histogram})


def histogram_of(image: UInt8[np.ndarray, "H W C"]) -> Int64[np.ndarray, "C levels"]:
    """Pixels by channel and level."""
    channels = range(image.shape[-1])
    return np.stack([np.bincount(image[..., c].ravel(), minlength=LEVELS) for c in channels])
