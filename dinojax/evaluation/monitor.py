"""The online kNN monitor: how good the teacher's frozen features are, on records not trained on.

Also scores raw pixels once, the baseline that a network has to beat.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging

from dinojax.data.pipeline import sequential_batches
from dinojax.data.source import Source
from dinojax.data.subset import Subset
from dinojax.evaluation.features import extract, pixel_features
from dinojax.evaluation.knn import knn_accuracy
from dinojax.typing import Params


def evenly(source: Source, limit: int) -> Source:
    """At most `limit` records, spread evenly over the source."""
    if len(source) <= limit:
        return source
    return Subset(source, np.arange(limit) * len(source) // limit)


class KnnMonitor:
    """Scores states on a labelled bank and held-out queries.

    Args:
        encode: ``(backbone parameters, canvas, size) -> [b, D]``, jitted.
        bank: labelled training records.
        queries: labelled records kept out of training.
    """

    def __init__(
        self,
        encode: Callable[..., Any],
        bank: Source,
        queries: Source,
        *,
        num_classes: int,
        canvas_px: int,
        batch_size: int,
        read_timeout_s: float,
        k: int,
        temperature: float,
        channels: int = 3,
    ):
        self._encode, self._sources = encode, (bank, queries)
        self._batch_size, self._canvas_px, self._channels = batch_size, canvas_px, channels
        self._read_timeout_s = read_timeout_s
        self._num_classes, self._k, self._temperature = num_classes, k, temperature
        self._pixels_scored = False

    def __call__(self, state: Any) -> Mapping[str, float]:
        """``knn`` of the teacher; the first call also gives ``knn_pixels``. Top-1, 0..1.

        Unreadable records are left out; NaN where none is left.
        """
        scores = {"knn": self.score(state.teacher["backbone"])}
        if not self._pixels_scored:
            scores["knn_pixels"] = self._score(pixel_features)
            self._pixels_scored = True
        return scores

    def score(self, params: Params) -> float:
        """Top-1 of one backbone, 0..1."""
        return self._score(lambda canvas, size: self._encode(params, canvas, size))

    def _score(self, encode: Callable[..., Any]) -> float:
        features = []
        for source in self._sources:
            batches = sequential_batches(
                source,
                self._batch_size,
                self._canvas_px,
                read_timeout_s=self._read_timeout_s,
                channels=self._channels,
            )
            with contextlib.closing(batches):
                features.extend(extract(encode, batches))
            read = len(features[-1])
            if read < len(source):
                text = "kNN monitor: %d of %d records are unreadable and left out"
                logging.warning(text, len(source) - read, len(source))
            if not read:
                return math.nan
        return float(
            knn_accuracy(
                *features,
                k=min(self._k, len(features[1])),
                temperature=self._temperature,
                num_classes=self._num_classes,
            )
        )
