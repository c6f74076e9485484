"""Sources laid end to end: what an `Order` of several parts indexes."""

import bisect
import dataclasses
import itertools
from collections.abc import Sequence

from dinojax.data.records import Record
from dinojax.data.source import Source


class Concat:
    """The records of all `parts`, one part after the other.

    Ids get the part's number in front (``"1/cat/7.jpg"``). Labels are left out: the parts' classes
    are not the same.
    """

    class_names: list[str] | None = None

    def __init__(self, parts: Sequence[Source]):
        self._parts = list(parts)
        self._starts = list(itertools.accumulate(map(len, parts), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Record:
        part, inner = self._at(index)
        record = self._parts[part][inner]
        return dataclasses.replace(record, id=f"{part}/{record.id}", label=None)

    def record_id(self, index: int) -> str:
        part, inner = self._at(index)
        return f"{part}/{self._parts[part].record_id(inner)}"

    def _at(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index={index} must lie in 0..{len(self) - 1}; use 0")
        part = bisect.bisect_right(self._starts, index) - 1
        return part, index - self._starts[part]
