"""What a data source is, and the part that all sources made of named image files share."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

from dinojax.data.records import Record

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""File names taken for images, compared in lower case; the bytes decide which codec reads them."""


@runtime_checkable
class Source(Protocol):
    """Records by index, ``0 .. len - 1``.

    A run resumes because position determines the record, so order and ids are the same in every
    process and every run. A source is pickled into worker processes and read from many threads at
    once. `record_id(i)` equals `self[i].id` without reading an image.
    """

    @property
    def class_names(self) -> list[str] | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def record_id(self, index: int) -> str: ...


class FileSource:
    """Base of the sources whose records are image files with ``/``-separated names.

    The name is the id; its first directory is the class, and a name without one has no label.
    Subclasses implement `read`.
    """

    def __init__(self, names: Sequence[str]):
        self._names = sorted(names)
        self._labels, self.class_names = classes_of(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        """The record at `index`, its image still encoded.

        Raises:
            IndexError: `index` outside 0..len - 1.
        """
        name, label = self.record_id(index), int(self._labels[index])
        return Record(image=self.read(index), id=name, label=None if label < 0 else label)

    def record_id(self, index: int) -> str:
        """Id of the record at `index`; no file is opened."""
        if not 0 <= index < len(self):
            raise IndexError(f"index={index} must lie in 0..{len(self) - 1}; use 0")
        return self._names[index]

    def read(self, index: int) -> bytes:
        """Encoded bytes of the image at `index`; called from many threads."""
        raise NotImplementedError


def is_image(name: str) -> bool:
    """Whether a path names an image; dot files (``._x.jpg`` of macOS archives) are none."""
    return not name.rpartition("/")[2].startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def classes_of(names: Sequence[str]) -> tuple[Int32[np.ndarray, " n"], list[str] | None]:
    """Labels by first directory (-1: the name has none) and the sorted class names, if any."""
    tops = [name.rpartition("/")[0].partition("/")[0] for name in names]
    class_names = sorted(set(tops) - {""})
    number = {top: label for label, top in enumerate(class_names)}
    return np.array([number.get(top, -1) for top in tops], np.int32), class_names or None
