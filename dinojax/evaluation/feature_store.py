"""Features on disk: extracted once, whatever dies meanwhile, and shared by all who need the same.

A folder per extraction, named by the hash of all that its features depend on (``about.json`` holds
the words). In it one NumPy file per `SHARD` records, ``000000.npy``, of two structured arrays, read
in place: place and label of each row, which cost nothing of the rest, and the rows whole. A shard
is written whole or not at all; an extraction that was killed computes the missing ones and no
other. Unreadable records have no row. Several processes divide the shards among themselves, and all
read all of them.
"""

import contextlib
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
from absl import logging
from jaxtyping import Int

from dinojax.data.pipeline import EvalBatch
from dinojax.data.source import Source
from dinojax.data.subset import Subset
from dinojax.runtime.agreement import check_shared
from dinojax.runtime.atomic import replace_text, replacing
from dinojax.runtime.divided_files import await_all, own_missing
from dinojax.runtime.fingerprints import hash_text

SHARD = 4096
"""Records per file."""
ABOUT = "about.json"
PLACE, LABEL = "place", "label"
"""Fields of a row: the record's place in its source, and its class (-1: none)."""

Batches = Callable[[Source], Generator[EvalBatch, None, None]]
Encode = Callable[[EvalBatch, Int[np.ndarray, " b"]], Mapping[str, np.ndarray]]
"""Of a batch and its records' places in the source (-1: filling) -> arrays by name, a row each."""


class Shard(NamedTuple):
    """A file's arrays, one row per record in both."""

    heads: np.ndarray
    """`PLACE` and `LABEL`."""
    rows: np.ndarray
    """The same with the features."""


class Rows:
    """The stored rows of a source, in its order, read from disk where they are needed."""

    def __init__(self, shards: list[Shard]):
        self._shards = shards
        self._ends = np.cumsum([len(shard.rows) for shard in shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        return self.column(LABEL)

    @property
    def places(self) -> Int[np.ndarray, " n"]:
        return self.column(PLACE)

    def column(self, name: str, index: Any = ()) -> np.ndarray:
        """One field of all rows, or what ``index`` takes of each row's."""
        arrays = [s.heads if name in (PLACE, LABEL) else s.rows for s in self._shards]
        return np.concatenate([a[name][(slice(None), *np.index_exp[index])] for a in arrays])

    def take(self, rows: Int[np.ndarray, " m"]) -> np.ndarray:
        """These rows, a structured array."""
        shard = np.searchsorted(self._ends, rows, side="right")
        out = np.empty(len(rows), self._shards[0].rows.dtype)
        for number in np.unique(shard):
            here = shard == number
            found = self._shards[number].rows
            out[here] = found[rows[here] - (self._ends[number] - len(found))]
        return out


def stored_rows(
    folder: Path, about: Mapping[str, Any], source: Source, batches: Batches, encode: Encode
) -> Rows:
    """The rows of `source`, extracted as far as they are not on disk.

    All processes make the same call. Each encodes its own shards, on its own devices.

    Args:
        folder: of all extractions; this one has its own in it.
        about: all that features and labels depend on; JSON values.
        batches: one pass over a source, in order.

    Raises:
        ValueError: a damaged file, no record can be read, or storage that processes do not share.
        dinojax.data.threads.StorageError: a read takes too long, or the storage fails.
    """
    text = json.dumps(about, indent=2, sort_keys=True) + "\n"
    folder = folder / hash_text(text)
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / ABOUT, text)
    check_shared(folder / ABOUT)
    paths = [folder / f"{number:06}.npy" for number in range(-(-len(source) // SHARD))]
    missing = own_missing(paths)
    if missing:
        text = "extracting features of %d records to %s: %d of %d files, here"
        logging.info(text, len(source), folder, len(missing), len(paths))
        for number, rows in _extract(source, missing, batches, encode):
            with replacing(paths[number]) as file:
                heads = np.empty(len(rows), [(n, rows.dtype[n]) for n in (PLACE, LABEL)])
                for name in (PLACE, LABEL):
                    heads[name] = rows[name]
                np.save(file, heads, allow_pickle=False)
                np.save(file, rows, allow_pickle=False)
    await_all(paths)
    rows = Rows([_read(path) for path in paths])
    if not len(rows):
        raise ValueError(f"none of the {len(source)} records can be read; give others with --data")
    if len(rows) < len(source):
        logging.warning(
            "%d of %d records are unreadable and left out", len(source) - len(rows), len(source)
        )
    return rows


def _extract(
    source: Source, shards: list[int], batches: Batches, encode: Encode
) -> Iterator[tuple[int, np.ndarray]]:
    """Each of these shards once all of its records have been read."""
    places = np.concatenate(
        [np.arange(s * SHARD, min((s + 1) * SHARD, len(source))) for s in shards]
    )
    waiting, held, first = list(shards), [], 0
    with contextlib.closing(batches(Subset(source, places))) as stream:
        for batch in stream:
            here = np.full(len(batch["valid"]), -1)
            count = min(len(here), len(places) - first)
            here[:count] = places[first : first + count]
            first += count
            held.append(_rows(batch, here, encode(batch, here)))
            read = len(source) if first == len(places) else places[first]  # all before are read
            while waiting and min((waiting[0] + 1) * SHARD, len(source)) <= read:
                rows = np.concatenate(held)
                own = rows[PLACE] // SHARD == waiting[0]
                held = [rows[~own]]
                yield waiting.pop(0), rows[own]


def _rows(
    batch: EvalBatch, places: Int[np.ndarray, " b"], arrays: Mapping[str, np.ndarray]
) -> np.ndarray:
    fields = {PLACE: places.astype(np.int64), LABEL: batch["label"], **arrays}
    kind = [(name, array.dtype, array.shape[1:]) for name, array in fields.items()]
    rows = np.empty(len(places), kind)
    for name, array in fields.items():
        rows[name] = array
    return rows[batch["valid"]]


def _read(path: Path) -> Shard:
    """A file's arrays, mapped.

    By Arrow, whose mapping outlives its closed file. One of NumPy's holds the file open, and there
    may be more shards than a process may have open files (1,024 by default on Linux).
    """
    try:
        with pa.memory_map(os.fspath(path)) as file:
            heads, rows = _map_next(file), _map_next(file)
        if len(heads) != len(rows):
            raise ValueError(f"{len(heads)} places for {len(rows)} rows")
        return Shard(heads, rows)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it and run the same again"
        ) from error


def _map_next(file: pa.MemoryMappedFile) -> np.ndarray:
    """The array at the file's position, which moves behind it."""
    np.lib.format.read_magic(file)
    (count,), _, dtype = np.lib.format.read_array_header_1_0(file)
    return np.frombuffer(file.read_buffer(count * dtype.itemsize), dtype, count)
