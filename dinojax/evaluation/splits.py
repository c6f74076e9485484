"""Parts of labelled rows by class, as functions of a seed."""

import numpy as np
from jaxtyping import Int


def split_by_class(
    labels: Int[np.ndarray, " n"], share: float, seed: int
) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """(kept, held out) rows, ascending: of each class about `share` is held out.

    At least one row of every class that has two, and none of a class that has one.

    Raises:
        ValueError: `share` outside 0..1, or nothing is left to hold out.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} must lie strictly between 0 and 1; use 0.1")
    held = np.zeros(len(labels), bool)
    for rows in _by_class(labels, seed):
        held[rows[: min(max(round(share * len(rows)), 1), len(rows) - 1)]] = True
    if not held.any():
        raise ValueError("no class has two records, so none can be held out; give more records")
    return np.flatnonzero(~held), np.flatnonzero(held)


def few_per_class(labels: Int[np.ndarray, " n"], count: int, seed: int) -> Int[np.ndarray, " m"]:
    """`count` rows of each class, ascending; with more, those of fewer are among them.

    Raises:
        ValueError: a class has fewer.
    """
    chosen = []
    for rows in _by_class(labels, seed):
        if len(rows) < count:
            raise ValueError(
                f"class {labels[rows[0]]} has {len(rows)} training records, fewer than {count} "
                "shots; leave these shots out"
            )
        chosen.append(rows[:count])
    return np.sort(np.concatenate(chosen))


def _by_class(labels: Int[np.ndarray, " n"], seed: int) -> list[Int[np.ndarray, " k"]]:
    """The rows of each class, shuffled."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
