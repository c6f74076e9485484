"""The records that an evaluation is made of, and what tasks may ask of them."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from dinojax.data.reading import read_record
from dinojax.data.sequences import find_sequences
from dinojax.data.source import Source

LOOKED_AT = 64


class Judged(NamedTuple):
    """Of one query: places in `EvalRecords.train` of the images that show the same."""

    easy: Int64[np.ndarray, " e"]
    hard: Int64[np.ndarray, " h"]
    junk: Int64[np.ndarray, " j"]
    """As if they were not there: neither right nor wrong."""


@dataclass(frozen=True)
class EvalRecords:
    """What is fitted on and what is scored."""

    train: Source
    """Training records, the kNN bank, or the images that are searched."""
    test: Source
    """Held-out records, or the queries."""
    accepted: tuple[tuple[int, ...], ...] | None = None
    """For each test record all classes that are right. None: its label alone."""
    judged: tuple[Judged, ...] | None = None
    """For each query what it should find. None: records of its class."""


def _has_labels(records: EvalRecords) -> bool:
    return records.train.class_names is not None


def _has_maps(field: str) -> Callable[[EvalRecords], bool]:
    """Whether one of the first test records has a map; unreadable ones have none."""

    def has(records: EvalRecords) -> bool:
        for index in range(min(len(records.test), LOOKED_AT)):
            try:
                if getattr(read_record(records.test, index), field) is not None:
                    return True
            except (ValueError, OSError):
                continue
        return False

    return has


NEEDS: dict[str, tuple[Callable[[EvalRecords], bool], str]] = {
    "labels": (_has_labels, "labels; sort the images into a folder per class"),
    "labels_or_judgements": (
        lambda records: records.judged is not None or _has_labels(records),
        "labels and no judged queries; sort the images into a folder per class",
    ),
    "segmentation": (_has_maps("segmentation"), "segmentation maps"),
    "depth": (_has_maps("depth"), "depth maps"),
    "videos": (
        lambda records: bool(find_sequences(records.test)),
        "videos; name their frames by number, as bear/00012.jpg",
    ),
}
"""What records may have: how to tell, and its name in a message."""


def check_needs(records: EvalRecords, needs: Collection[str], task: str) -> None:
    """Raises ValueError: the records lack what the task needs."""
    for need in sorted(needs):
        has, name = NEEDS[need]
        if not has(records):
            raise ValueError(
                f"the records have no {name}, which task {task!r} needs; give others with --data, "
                "or leave the task out"
            )
