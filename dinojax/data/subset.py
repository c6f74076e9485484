"""Parts of a source: chosen records, and a split that depends on nothing but the ids."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from jaxtyping import Int32, Integer

from dinojax.data.records import Record
from dinojax.data.source import Source, check_index


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


def holdout(source: Source, fraction: float, seed: int = 0) -> tuple[Subset, Subset]:
    """Split into (train, held out), about `fraction` of the records held out.

    A record's side is a hash of (seed, id). It depends neither on the order nor on the other
    records, so images added later move none across.

    Raises:
        ValueError: `fraction` outside 0..1, or a side without records.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction} must lie strictly between 0 and 1; use 0.1")
    draws = np.array([_draw(seed, source.record_id(i)) for i in range(len(source))])
    held = draws < fraction
    if held.all() or not held.any():
        side = "train" if held.all() else "held-out"
        raise ValueError(
            f"fraction={fraction} of {len(source)} records leaves the {side} side empty; "
            "use a fraction nearer to 0.5 or another seed"
        )
    return Subset(source, np.flatnonzero(~held)), Subset(source, np.flatnonzero(held))


def _draw(seed: int, record_id: str) -> float:
    """A number in [0, 1), uniform over ids."""
    digest = blake2b(f"{seed}/{record_id}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
