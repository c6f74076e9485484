"""Weighted kNN on the normed CLS feature (DINO, arXiv:2104.14294, appendix F.1)."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

from dinojax.data.pipeline import sequential_batches
from dinojax.evaluation.features import extract, make_encoder
from dinojax.evaluation.knn import knn_accuracy
from dinojax.tasks.task import Evaluation, Score, Task


@dataclass(frozen=True)
class KnnProtocol:
    """Cosine similarity; votes weighted by ``exp(similarity / temperature)``."""

    k: int = 20
    temperature: float = 0.07


def _run(protocol: KnnProtocol, evaluation: Evaluation) -> Iterator[Score]:
    encoder, records = evaluation.encoder, evaluation.records
    encode = make_encoder(
        encoder.backbone,
        image_px=evaluation.preparation.image_px,
        mean=encoder.mean,
        std=encoder.std,
    )
    features = []
    for source in (records.train, records.test):
        batches = sequential_batches(source, **evaluation.reading)
        with contextlib.closing(batches):
            features.extend(extract(functools.partial(encode, encoder.params), batches))
    assert records.train.class_names is not None
    yield Score(
        "top1",
        knn_accuracy(
            *features,
            k=min(protocol.k, len(features[1])),
            temperature=protocol.temperature,
            num_classes=len(records.train.class_names),
        ),
    )


KNN = Task(KnnProtocol, frozenset({"labels"}), _run)
