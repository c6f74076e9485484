"""Few shots: the nearest class mean of a few training records per class."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from absl import logging

from dinojax.evaluation.centroids import rank_by_centroid
from dinojax.evaluation.hits import accuracies
from dinojax.evaluation.splits import few_per_class
from dinojax.tasks.global_rows import labelled_rows, num_classes
from dinojax.tasks.task import Evaluation, Score, Task, over_seeds


@dataclass(frozen=True)
class FewshotProtocol:
    """All classes at once, all test records (no episodes)."""

    shots: tuple[int, ...] = (1, 2, 5, 10)
    """Training records per class; left out where a class has fewer."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of the choice of these."""


def _run(protocol: FewshotProtocol, evaluation: Evaluation) -> Iterator[Score]:
    train, test = (labelled_rows(evaluation, part) for part in ("train", "test"))
    fewest = int(np.unique(train.labels, return_counts=True)[1].min())
    kept = [shots for shots in protocol.shots if shots <= fewest]
    if not kept:
        raise ValueError(
            f"fewshot.shots={protocol.shots}, and a class has {fewest} training records; use 1"
        )
    if len(kept) < len(protocol.shots):
        text = "fewshot: a class has %d training records, so shots are %s of %s"
        logging.warning(text, fewest, kept, protocol.shots)
    bank, queries = train.cls, test.cls

    def run(seed: int) -> dict[str, float]:
        found = {}
        for shots in kept:
            rows = few_per_class(train.labels, shots, seed)
            ranked = rank_by_centroid(
                bank[rows],
                train.labels[rows],
                queries,
                num_classes=num_classes(evaluation),
                top=1,
            )
            scores = accuracies(np.asarray(ranked), test.labels, test.accepted)
            found[f"top1_{shots}shot"] = scores["top1"]
        return found

    yield from over_seeds(run, protocol.seeds, evaluation.keep)


FEWSHOT = Task(FewshotProtocol, frozenset({"labels"}), _run)
