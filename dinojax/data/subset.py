"""Parts of a source: chosen records, and a split that depends on nothing but the ids."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from jaxtyping import Float64, Int32, Integer

from dinojax.data.records import Record
from dinojax.data.source import Source, check_index

USUAL = 0.1
"""Share of the records that a message would have held out."""


class Subset:
    """The records of `source` at `indices`, in that order; ids, labels and class names stay.

    Raises:
        ValueError: an index outside the source.
    """

    def __init__(self, source: Source, indices: Sequence[int] | Integer[np.ndarray, " n"]):
        self._source = source
        self._indices = np.asarray(indices, np.int64)
        wrong = self._indices[(self._indices < 0) | (self._indices >= len(source))]
        if wrong.size:
            raise ValueError(f"indices holds {wrong[0]}; all must lie in 0..{len(source) - 1}")

    @property
    def class_names(self) -> list[str] | None:
        return self._source.class_names

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._indices[check_index(index, len(self))])]

    @property
    def known_labels(self) -> Int32[np.ndarray, " n"] | None:
        """Of all records, -1: none. None: the source knows them only with the records."""
        known = getattr(self._source, "known_labels", None)
        return None if known is None else known[self._indices]

    def record_id(self, index: int) -> str:
        return self._source.record_id(int(self._indices[check_index(index, len(self))]))


def holdout(source: Source, fraction: float, key: str | None = None) -> tuple[Subset, Subset]:
    """Split into (train, held out), about `fraction` of the records held out.

    A record's side is a hash of its id. It depends neither on the order nor on the other records,
    so images added later move none across.

    Args:
        key: of the configuration, that sets the fraction. None: nothing does.

    Raises:
        ValueError: a side without records.
    """
    draws = np.array([_draw(source.record_id(i)) for i in range(len(source))])
    held = draws < fraction
    if held.all() or not held.any():
        side = "train" if held.all() else "held-out"
        raise ValueError(
            f"{key or 'holdout'}={fraction} of {len(source)} records leaves the {side} side empty; "
            + _remedy(draws, key)
        )
    return Subset(source, np.flatnonzero(~held)), Subset(source, np.flatnonzero(held))


def _remedy(draws: Float64[np.ndarray, " n"], key: str | None) -> str:
    """The usual share, or of those that leave no side empty the one next to it."""
    shares = [
        n / 100 for n in range(1, 100) if draws.min(initial=1) < n / 100 <= draws.max(initial=0)
    ]
    if key is None or not shares:
        return "give more records"
    return f"use {key}={min(shares, key=lambda share: abs(share - USUAL))}"


def _draw(record_id: str) -> float:
    """A number in [0, 1), uniform over ids."""
    digest = blake2b(f"0/{record_id}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
