"""The linear probe: a grid of learning rates, layers and pooling, trained at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from absl import logging
from jaxtyping import Int

from dinojax.evaluation.feature_store import Rows
from dinojax.evaluation.hits import TOP, accuracies, hits
from dinojax.evaluation.linear_probe import (
    Heads,
    ProbeBatch,
    ProbeInput,
    probe_inputs,
    rank_by_probes,
    row_order,
    train_probes,
)
from dinojax.evaluation.splits import split_by_class
from dinojax.tasks.global_rows import LAYERS, Labelled, global_rows, labelled_rows, num_classes
from dinojax.tasks.task import SEEDS, Evaluation, Score, Task, check_batch, over_seeds

CHUNK = 1024
SELECT = ("held_out", "test")


@dataclass(frozen=True)
class LinearProtocol:
    """DINOv2's grid (its code), on one device's batch; configs/eval/in1k.py has that of eight."""

    learning_rates: tuple[float, ...] = (
        *(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4),
        *(1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1),
    )
    """For a batch of 256; each grows with the batch."""
    layers: tuple[int, ...] = (1, 4)
    """Last layers whose CLS are joined; no more than there are of one width."""
    avgpool: tuple[bool, ...] = (False, True)
    """Whether the mean patch of the last layer joins them."""
    iterations: int = 12_500
    batch_size: int = 128
    views: int = 0
    """Random crops of each training image, one per pass, the first again after the last; those of
    the passes that there are are extracted and stored. 0: the middle of the image in all passes."""
    select: str = "held_out"
    """What the best probe is chosen on: a part of the training records, or as published "test"."""
    held_out: float = 0.1
    """Share of each class for "held_out", which then is not trained on."""
    seeds: tuple[int, ...] = SEEDS


def _run(protocol: LinearProtocol, evaluation: Evaluation) -> Iterator[Score]:
    _check(protocol)
    train, test = (labelled_rows(evaluation, part) for part in ("train", "test"))
    views = range(min(protocol.views, _passes(protocol, train.labels)))
    views = [global_rows(evaluation, "train", view) for view in views]
    stored = train.rows.take(np.array([0]))["cls"].shape[1]
    inputs = tuple(probe_inputs(protocol.layers, protocol.avgpool, stored))
    classes = num_classes(evaluation)

    def run(seed: int) -> dict[str, float]:
        kept, held = np.arange(len(train.labels)), None
        if protocol.select == "held_out":
            kept, held = split_by_class(train.labels, protocol.held_out, seed)
        heads = train_probes(
            _batches(protocol, views or [train.rows], train.keep[kept], seed),
            inputs,
            protocol.learning_rates,
            num_classes=classes,
            iterations=protocol.iterations,
            seed=seed,
        )
        ranked = _rank(heads, test.rows, test.keep, inputs, min(TOP, classes))
        chosen_on, judges = ranked, test
        if held is not None:
            judges = Labelled(train.rows, train.keep[held], train.labels[held], None)
            chosen_on = _rank(heads, judges.rows, judges.keep, inputs, 1)
        name, rate = _best(chosen_on, judges)
        text = "linear, seed %d: the best probe is %s, lr %g"
        logging.info(text, seed, name, protocol.learning_rates[rate])
        return accuracies(ranked[name][rate], test.labels, test.accepted)

    yield from over_seeds(run, protocol.seeds, evaluation.keep)


def _passes(protocol: LinearProtocol, labels: Int[np.ndarray, " n"]) -> int:
    """Over the records that are trained on; as many with every seed."""
    kept = len(labels)
    if protocol.select == "held_out":
        kept = len(split_by_class(labels, protocol.held_out, 0)[0])
    return -(-protocol.iterations * protocol.batch_size // kept)


def _check(protocol: LinearProtocol) -> None:
    check_batch(protocol.batch_size, "linear.batch_size")
    if protocol.select not in SELECT:
        raise ValueError(f"linear.select={protocol.select!r} is unknown; use one of {SELECT}")
    if not protocol.layers or not 1 <= min(protocol.layers) <= max(protocol.layers) <= LAYERS:
        raise ValueError(f"linear.layers={protocol.layers} must lie in 1..{LAYERS}; use (1, 4)")
    if not protocol.learning_rates or not protocol.avgpool or protocol.iterations < 1:
        raise ValueError(
            "linear.learning_rates, linear.avgpool and linear.iterations must not be empty or 0; "
            "use those of LinearProtocol"
        )


def _batches(
    protocol: LinearProtocol, views: list[Rows], kept: Int[np.ndarray, " n"], seed: int
) -> Iterator[ProbeBatch]:
    for order in row_order(len(kept), protocol.batch_size, protocol.iterations, seed):
        passes, rows = np.divmod(order, len(kept))
        parts = [
            views[number % len(views)].take(kept[rows[passes == number]])
            for number in np.unique(passes)
        ]
        yield _batch(np.concatenate(parts))


def _batch(rows: np.ndarray) -> ProbeBatch:
    return ProbeBatch(rows["cls"], rows["mean"], rows["label"])


def _rank(
    heads: Heads,
    rows: Rows,
    keep: Int[np.ndarray, " m"],
    inputs: tuple[ProbeInput, ...],
    top: int,
) -> dict[str, Int[np.ndarray, "R m T"]]:
    """Classes of these rows by each probe."""
    size = min(CHUNK, len(keep))
    found: dict[str, list[np.ndarray]] = {}
    for first in range(0, len(keep), size):
        here = keep[first : first + size]
        filled = np.pad(here, (0, size - len(here)), mode="edge")  # one shape, one program
        ranked = rank_by_probes(heads, _batch(rows.take(filled)), inputs, top)
        for name, one in ranked.items():
            found.setdefault(name, []).append(np.asarray(one)[:, : len(here)])
    return {name: np.concatenate(parts, axis=1) for name, parts in found.items()}


def _best(ranked: dict[str, Int[np.ndarray, "R m T"]], judges: Labelled) -> tuple[str, int]:
    """(input, place of the learning rate) of the probe with the best top1; ties: the first."""
    right = {
        (name, rate): hits(one, judges.labels, judges.accepted)[:, 0].mean()
        for name, rates in ranked.items()
        for rate, one in enumerate(rates)
    }
    return max(right, key=lambda key: right[key])


LINEAR = Task(LinearProtocol, frozenset({"labels"}), _run)
