"""Evaluations of raw pixels on a few small images: no network, nothing to compile but the task."""

from pathlib import Path
from typing import Any

import numpy as np

from dinojax.data.eval_records import EvalRecords
from dinojax.data.records import Record
from dinojax.models.pixels import Pixels
from dinojax.precision import POLICIES
from dinojax.tasks.task import Encoder, Evaluation, Preparation

CLASSES = ["flat", "rising", "falling"]
PX = 8


class Gradients:
    """Images of three classes, by the direction of their grey levels, with noise.

    Args:
        labels: one per image; None: in turn. Those that are shown stay in turn.
    """

    def __init__(self, name: str, count: int, noise: float, labels: list[int | None] | None = None):
        self.name, self.count, self.noise = name, count, noise
        self.labels = labels or [i % 3 for i in range(count)]
        self.class_names = CLASSES

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        rng = np.random.default_rng([*self.name.encode(), index])
        slope = (0.0, 1.0, -1.0)[index % 3]
        level = 128 + 8 * slope * (np.arange(PX) - PX / 2) + self.noise * rng.normal(size=(PX, PX))
        image = np.repeat(np.clip(level, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
        return Record(image=image, id=self.record_id(index), label=self.labels[index])

    def record_id(self, index: int) -> str:
        return f"{self.name}/{index}"


def evaluation(folder: Path, records: EvalRecords, **fingerprints: str) -> Evaluation:
    """Of raw pixels."""
    backbone: Any = Pixels(POLICIES["float32"], patch_size=4)
    return Evaluation(
        Encoder("0" * 16, backbone, {}, (0.0,) * 3, (1.0,) * 3),
        records,
        {"train": "of train", "test": "of test"} | fingerprints,
        Preparation(
            image_px=PX,
            resize_px=PX,
            fit="crop",
            canvas_px=16,
            batch_size=16,
            read_timeout_s=60.0,
            folder=folder,
        ),
    )
