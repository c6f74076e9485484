"""Weighted kNN on the normed CLS feature (DINO, arXiv:2104.14294, appendix F.1)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dinojax.evaluation.hits import TOP, accuracies
from dinojax.evaluation.knn import rank_classes
from dinojax.evaluation.nearest import nearest
from dinojax.tasks.global_rows import labelled_rows, num_classes
from dinojax.tasks.task import Evaluation, Score, Task


@dataclass(frozen=True)
class KnnProtocol:
    """Cosine similarity; votes weighted by ``exp(similarity / temperature)``."""

    ks: tuple[int, ...] = (10, 20, 100, 200)
    """No more than there are training records. Scores of each have its k in their names; those
    without are of the k with the best top1, as it is published."""
    temperature: float = 0.07


def _run(protocol: KnnProtocol, evaluation: Evaluation) -> Iterator[Score]:
    bank, queries = (labelled_rows(evaluation, part) for part in ("train", "test"))
    classes = num_classes(evaluation)
    ks = sorted({min(k, len(bank.labels)) for k in protocol.ks})
    found = nearest(bank.cls, queries.cls, max(ks))
    ranked = rank_classes(
        found.similarity,
        bank.labels[np.asarray(found.index)],
        ks=tuple(ks),
        temperature=protocol.temperature,
        num_classes=classes,
        top=min(TOP, classes),
    )
    scores = [
        accuracies(np.asarray(ranked[:, i]), queries.labels, queries.accepted)
        for i in range(len(ks))
    ]
    for name, value in max(scores, key=lambda one: one["top1"]).items():
        yield Score(name, value)
    for k, one in zip(ks, scores, strict=True):
        for name, value in one.items():
            yield Score(f"{name}_k{k}", value)


KNN = Task(KnnProtocol, frozenset({"labels"}), _run)
