"""`FileSource`: what all sources made of named image files share, a folder or a tar.

Files that belong to one record have one stem, as in WebDataset: beside ``cat/a.jpg`` there may be
a map, ``cat/a.seg.png`` or ``cat/a.depth.npy``, and ``cat/a.cls``. `file_names.py` says which.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from dinojax.data.file_names import SIDECARS, LeftOut, sample_key, sidecar_suffix
from dinojax.data.labels import classes_of, name_classes
from dinojax.data.records import Record
from dinojax.data.source import check_index


class FileSource:
    """Base of the sources whose records are image files with ``/``-separated names.

    The label is the number in the record's ``.cls`` file if the source has such files, and the
    first directory of its name otherwise. Subclasses implement `read_file`.

    Args:
        names: of images and what goes with them, in the order of the records; the number of a file
            is its place in this list.
        ids: the same with what makes names unique, where they are not.
        left_out: files that are not among `names`; arrays beside images join them, and one line in
            the log tells of all.

    Raises:
        ValueError: a name that is not UTF-8, a map without an image, or a label that is no number.
    """

    def __init__(self, names: Sequence[str], ids: Sequence[str], left_out: LeftOut):
        self._parts = match_parts(ids)
        for number in spare_numbers(self._parts, len(ids)):
            left_out.add(ids[number])
        left_out.log()
        self._ids = [ids[int(number)] for number in self._parts.image]
        _check_utf8(self._ids)
        if (self._parts.label >= 0).any():
            self._labels, self.class_names = self._read_labels(ids)
        else:
            images = [names[int(number)] for number in self._parts.image]
            self._labels, self.class_names = classes_of(images)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Record:
        """The record at `index`, its image and maps still encoded.

        Raises:
            IndexError: `index` outside 0..len - 1.
        """
        check_index(index, len(self))
        label = int(self._labels[index])

        def read(numbers: Int64[np.ndarray, " n"]) -> bytes | None:
            number = numbers.item(index)
            return self.read_file(number) if number >= 0 else None

        return Record(
            image=self.read_file(self._parts.image.item(index)),
            id=self._ids[index],
            label=None if label < 0 else label,
            segmentation=read(self._parts.segmentation),
            depth=read(self._parts.depth),
        )

    @property
    def known_labels(self) -> Int32[np.ndarray, " n"]:
        """Of all records, -1: none; no record is read."""
        return self._labels

    def record_id(self, index: int) -> str:
        """Id of the record at `index`; no file is opened."""
        return self._ids[check_index(index, len(self))]

    def read_file(self, number: int) -> bytes:
        """The bytes of a file; called from many threads."""
        raise NotImplementedError

    def owner(self, number: int) -> str:
        """Id of the record that a file belongs to, for messages."""
        return self._ids[np.flatnonzero((np.stack(self._parts) == number).any(0))[0]]

    def _read_labels(self, ids: Sequence[str]) -> tuple[Int32[np.ndarray, " n"], list[str]]:
        """Labels from the ``.cls`` files (-1: the record has none) and their numbers as names."""
        labels = np.full(len(self), -1, np.int32)
        for index in np.flatnonzero(self._parts.label >= 0):
            number = int(self._parts.label[index])
            labels[index] = _parse_label(self.read_file(number), ids[number])
        return labels, name_classes(labels, None, "the .cls files")


class Parts(NamedTuple):
    """Numbers of the files of each record; -1: it has none."""

    image: Int64[np.ndarray, " n"]
    segmentation: Int64[np.ndarray, " n"]
    depth: Int64[np.ndarray, " n"]
    label: Int64[np.ndarray, " n"]


def match_parts(names: Sequence[str]) -> Parts:
    """Which files make up which record; one record per image, in the order of `names`.

    An ``.npy`` is an image unless there is another of its WebDataset sample: then it is some array
    that belongs to that one, such as an embedding.

    Raises:
        ValueError: a segmentation or depth map without an image of the same stem.
    """
    images: list[int] = []
    arrays: list[int] = []
    found = {part: dict[str, int]() for part in SIDECARS.values()}
    for number, name in enumerate(names):
        suffix = sidecar_suffix(name)
        if suffix is not None:
            found[SIDECARS[suffix]][name[: -len(suffix)]] = number
        elif name.lower().endswith(".npy"):
            arrays.append(number)
        else:
            images.append(number)
    if arrays:
        pictured = {sample_key(names[number]) for number in images}
        images += [number for number in arrays if sample_key(names[number]) not in pictured]
        images.sort()
    stems = [names[number].rpartition(".")[0] for number in images]
    for part in ("segmentation", "depth"):
        lonely = found[part].keys() - set(stems)
        if lonely:
            name = names[found[part][min(lonely)]]
            raise ValueError(
                f"{name!r} is a {part} map without an image beside it ({len(lonely)} such); "
                f"name the image {min(lonely)}.jpg or remove the map"
            )
    numbers = {part: [found[part].get(stem, -1) for stem in stems] for part in found}
    return Parts(
        image=np.array(images, np.int64),
        **{part: np.array(column, np.int64) for part, column in numbers.items()},
    )


def spare_numbers(parts: Parts, count: int) -> list[int]:
    """Which of `count` files belong to no record."""
    spare = np.ones(count, bool)
    for numbers in parts:
        spare[numbers[numbers >= 0]] = False
    return np.flatnonzero(spare).tolist()


def _parse_label(data: bytes, name: str) -> int:
    try:
        label = int(data)
    except ValueError:
        label = -1
    if not 0 <= label < 2**31:
        raise ValueError(f"{name!r} holds {data[:20]!r}; a .cls file holds one class number, 0 up")
    return label


def _check_utf8(names: Sequence[str]) -> None:
    """Ids go into logs, hashes and manifests."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"file name {name!a} is not UTF-8; rename the file") from None
