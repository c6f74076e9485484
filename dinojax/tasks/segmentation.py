"""Semantic segmentation with a linear head on frozen patch features."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

from dinojax.data.map_batches import find_classes, map_batches
from dinojax.evaluation.features import make_dense_encoder
from dinojax.evaluation.segmentation import linear_segmentation
from dinojax.tasks.task import Evaluation, Score, Task


@dataclass(frozen=True)
class SegmentationProtocol:
    """Normed patches of centre crops, a head by ridge regression."""

    ridge: float = 1e-3


def _run(protocol: SegmentationProtocol, evaluation: Evaluation) -> Iterator[Score]:
    encoder, records = evaluation.encoder, evaluation.records
    image_px = evaluation.preparation.image_px
    parts = records.train, records.test
    classes = sorted({number for part in parts for number in find_classes(part)})
    encode = make_dense_encoder(
        encoder.backbone, image_px=image_px, mean=encoder.mean, std=encoder.std
    )
    batches = [map_batches(part, **evaluation.reading) for part in parts]
    with contextlib.closing(batches[0]), contextlib.closing(batches[1]):
        scores = linear_segmentation(
            functools.partial(encode, encoder.params),
            *batches,
            classes=classes,
            image_px=image_px,
            ridge=protocol.ridge,
        )
    yield Score("miou", scores.miou)


SEGMENTATION = Task(SegmentationProtocol, frozenset({"segmentation"}), _run)
