"""Image files whose names and classes a list gives, as published datasets come with."""

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from dinojax.data.records import Record
from dinojax.data.source import check_index


class ListedFiles:
    """Files below `root` by relative name, which is the id, in the order of the list.

    Args:
        labels: one per name; None: the files have none.
        class_names: by label.

    Raises:
        ValueError: no name, one that comes twice, or labels that do not match.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        names: Sequence[str],
        labels: Sequence[int] | None = None,
        class_names: list[str] | None = None,
    ):
        self._root, self._names, self._labels = os.fspath(root), list(names), labels
        self.class_names = class_names
        if not names:
            raise ValueError(
                f"the list of files in {self._root} is empty; give one that names some"
            )
        double, times = Counter(names).most_common(1)[0]
        if times > 1:
            raise ValueError(f"the list of files in {self._root} names {double!r} {times} times")
        if labels is not None:
            count = 0 if class_names is None else len(class_names)
            if len(labels) != len(names) or not all(0 <= label < count for label in labels):
                raise ValueError(
                    f"{len(names)} files in {self._root} have {len(labels)} labels, which must be "
                    f"one each in 0..{count - 1}"
                )

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self.record_id(index)
        with open(os.path.join(self._root, name), "rb") as file:
            image = file.read()
        return Record(
            image=image, id=name, label=None if self._labels is None else int(self._labels[index])
        )

    @property
    def known_labels(self) -> Int32[np.ndarray, " n"] | None:
        """Of all records, -1: none; no record is read. None: there are no labels."""
        return None if self._labels is None else np.array(self._labels, np.int32)

    def record_id(self, index: int) -> str:
        return self._names[check_index(index, len(self))]
