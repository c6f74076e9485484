"""Logistic regression on CLS, its C chosen on a part of the training records."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np
from absl import logging

from dinojax.evaluation.hits import TOP, accuracies, hits
from dinojax.evaluation.logistic import c_grid, fit_logistic, rank_by_logits
from dinojax.evaluation.splits import split_by_class
from dinojax.tasks.global_rows import labelled_rows, num_classes
from dinojax.tasks.task import SEEDS, Evaluation, Score, Task, over_seeds


@dataclass(frozen=True)
class LogisticProtocol:
    """DINOv2's evaluation (its code): float64, L2, refitted on all training records with the C."""

    log10_c: tuple[float, float] = (-6.0, 5.0)
    cs: int = 45
    """How many, evenly in the exponent."""
    max_iterations: int = 1000
    tolerance: float = 1e-12
    held_out: float = 0.1
    """Share of each class that C is chosen on."""
    seeds: tuple[int, ...] = SEEDS
    """Of the choice of these."""


def _run(protocol: LogisticProtocol, evaluation: Evaluation) -> Iterator[Score]:
    train, test = (labelled_rows(evaluation, part) for part in ("train", "test"))
    classes = num_classes(evaluation)
    top = min(TOP, classes)
    grid = c_grid(*protocol.log10_c, protocol.cs)
    limits = {
        "num_classes": classes,
        "max_iterations": protocol.max_iterations,
        "tolerance": protocol.tolerance,
    }
    with jax.enable_x64(True):
        x, queries = train.cls.astype(np.float64), test.cls.astype(np.float64)

        def run(seed: int) -> dict[str, float]:
            kept, held = split_by_class(train.labels, protocol.held_out, seed)
            fit = fit_logistic(x[kept], train.labels[kept], np.array(grid), **limits)
            ranked = np.asarray(rank_by_logits(fit.weights, fit.bias, x[held], 1))
            right = [hits(one, train.labels[held]).mean() for one in ranked]
            best = int(np.argmax(right))
            logging.info(
                "logistic, seed %d: C = %.3g, held-out %.4f", seed, grid[best], right[best]
            )
            fit = fit_logistic(x, train.labels, np.array(grid[best : best + 1]), **limits)
            ranked = np.asarray(rank_by_logits(fit.weights, fit.bias, queries, top))
            return accuracies(ranked[0], test.labels, test.accepted)

        scores = list(
            over_seeds(run, protocol.seeds, evaluation.keep)
        )  # all computed before the mode ends
    yield from scores


LOGISTIC = Task(LogisticProtocol, frozenset({"labels"}), _run)
