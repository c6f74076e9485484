"""`ArrayRecordSource`: shards written by `python -m dinojax.prepare`, or any of TFDS's layout."""

import functools
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from array_record.python import array_record_module  # type: ignore[attr-defined]
from jaxtyping import Int32, Int64

from dinojax.data.examples import Fields, from_example
from dinojax.data.handles import Handles
from dinojax.data.manifest import MANIFEST, read_index_of, read_manifest
from dinojax.data.records import Record
from dinojax.data.shards import find_shards, shard_names
from dinojax.data.source import check_index
from dinojax.data.threads import StorageError

# One record at a time: nothing is read ahead, and no thread of the library's own is needed.
RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"
READ_BYTES = 32_768
READ_RECORDS = 1024
"""At a time, of a file that is read in order."""
SYSTEM_CALL = r"[a-z]+\(\) failed: "
"""How the library begins to speak of the system, as in ``pread() failed: Stale file handle; ...``.
Of what a file holds it speaks in many words, or in none."""


class ExampleShards:
    """Random access to the records of many ArrayRecord files, in the order of the files.

    Args:
        paths: the files.
        skip: records at the start of each file that do not count.
        take: records of each file that count.
    """

    def __init__(self, paths: list[str], skip: list[int], take: list[int]):
        self._skip = np.array(skip, np.int64)
        self._ends: Int64[np.ndarray, " shards"] = np.cumsum(np.array(take, np.int64))
        self._paths = paths
        self._readers = Handles(functools.partial(_open, paths))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def place(self, index: int) -> tuple[int, int]:
        """(file, record in that file) of a record."""
        shard = int(np.searchsorted(self._ends, check_index(index, len(self)), side="right"))
        first = int(self._ends[shard - 1]) if shard else 0
        return shard, index - first + int(self._skip[shard])

    def read(self, index: int) -> bytes:
        """The bytes of a record; safe from any thread.

        Raises:
            ValueError: the file is damaged, there or as a whole.
            StorageError: it cannot be read now, or has gone.
        """
        shard, position = self.place(index)
        reader, where = self._readers[shard], f"{self._paths[shard]} at record {position}"
        (data,) = _read(reader, where, [position])
        if not data:  # what a reader gives for all that lay behind a new end of its file
            raise ValueError(f"{where} is empty: cut short since it was opened? copy it again")
        return data


class ArrayRecordSource:
    """Records of ArrayRecord files that hold ``tf.train.Example`` in TFDS's conventions.

    Args:
        path: a folder that `dinojax.prepare` wrote, whose manifest gives ids, class names and
            counts; or a file or glob of others, whose features are called ``image``, ``label``,
            ``segmentation`` and ``depth``, and whose ids are ``FILE__POSITION`` as in TFDS.

    Raises:
        FileNotFoundError: no such file or folder, or a shard of the manifest is missing.
        ValueError: a file that is damaged, of other length than in the manifest, or of no records.
    """

    def __init__(self, path: str | os.PathLike[str]):
        pattern = os.fspath(path)
        self.class_names: list[str] | None = None
        self._ids: Any = None
        self._labels: Int32[np.ndarray, " n"] | None = None
        self._names: list[str] = []
        if os.path.isdir(pattern):
            manifest = read_manifest(pattern)
            paths = [os.path.join(pattern, shard.name) for shard in manifest.shards]
            take = [shard.records for shard in manifest.shards]
            self.class_names = manifest.class_names
            self._ids, self._labels = read_index_of(pattern, manifest)
        else:
            paths = find_shards(pattern, f"an ArrayRecord file, or a folder with {MANIFEST}")
            take = [count_records(file) for file in paths]
            self._names = shard_names(pattern, paths)
        if not sum(take):
            raise ValueError(f"{pattern} holds no records; give shards that hold at least 1")
        self._shards = ExampleShards(paths, [0] * len(paths), take)

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> Record:
        return from_example(self._shards.read(index), self.record_id(index), Fields())

    @property
    def known_labels(self) -> Int32[np.ndarray, " n"] | None:
        """Of all records of a prepared folder, -1: none. None: they are in the records alone."""
        return self._labels

    def record_id(self, index: int) -> str:
        if self._ids is not None:
            return self._ids[check_index(index, len(self))].as_py()
        shard, position = self._shards.place(index)
        return f"{self._names[shard]}__{position}"


def count_records(path: str) -> int:
    """Number of records in one ArrayRecord file.

    Raises:
        ValueError: the file is damaged; the library itself would report 0 records.
        StorageError: it cannot be read now.
    """
    return _open([path], 0).num_records()


def read_in_order(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """All records of one ArrayRecord file.

    Raises:
        ValueError: the file is damaged.
        StorageError: it cannot be read now.
    """
    reader = _open([os.fspath(path)], 0)
    count = reader.num_records()
    for first in range(0, count, READ_RECORDS):
        end = min(first + READ_RECORDS, count)
        yield from _read(reader, f"{os.fspath(path)} at records {first} to {end - 1}", first, end)


def _read(reader: Any, where: str, *which: Any) -> list[bytes]:
    try:
        return reader.read(*which)
    except RuntimeError as error:
        raise _explained(error, f"{where} is damaged", where) from error


def _explained(error: Exception, damage: str, where: str) -> Exception:
    """The library has one exception for what a file holds and for what the system refuses."""
    cause = str(error).partition(";")[0]
    if re.match(SYSTEM_CALL, cause):
        return StorageError(f"{where} cannot be read ({cause})")
    return ValueError(f"{damage} ({cause or 'cut short'}); copy it again")


def _open(paths: list[str], shard: int) -> Any:
    path = paths[shard]
    reader = array_record_module.ArrayRecordReader(
        path, options=RANDOM_ACCESS, file_reader_buffer_size=READ_BYTES
    )
    if not reader.ok():
        try:
            reader.read()  # raises what is wrong
        except RuntimeError as error:
            raise _explained(error, f"{path} is not a complete ArrayRecord file", path) from error
    return reader
