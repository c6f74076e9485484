"""Rows on disk in the order of `dinojax.curation.embeddings`, where memory does not hold them.

An external sort: one pass over the files leaves each row in one of some buckets, and each bucket,
which memory holds, then goes to its place. A folder has the rows as plain float32, their ids and
labels beside them, and at last ``sorted.json``, which says of what files all that is: a folder
without it is nothing. It is a copy, which can be made again.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int64

from dinojax.curation.embeddings import (
    Listing,
    RowsOptions,
    fingerprint,
    read_parts,
    unit,
)
from dinojax.curation.feature_files import feature_files
from dinojax.curation.tables import write_table
from dinojax.runtime.atomic import replace_text, replacing
from dinojax.runtime.fingerprints import hash_file, hash_text

ROWS, RECORDS, ABOUT = "rows.f32", "records.parquet", "sorted.json"
BUCKET_BYTES, MOST_BUCKETS = 2**26, 2**9
"""Buckets are larger only where there would be too many open files."""
SLICE = 2**16
"""Ids that are hashed at a time."""


@dataclass(frozen=True)
class RowFile:
    """Rows in a file: slices, and rows at an array of places, are read when asked for."""

    path: Path
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice | Int64[np.ndarray, " m"]) -> Float[np.ndarray, "m D"]:
        # Not mapped: pages around those that are read would count as memory of this process.
        width = self.shape[1]
        if isinstance(part, slice):
            first, end, _ = part.indices(len(self))
            count, offset = max(end - first, 0) * width, 4 * first * width
            found = np.fromfile(self.path, np.float32, count, offset=offset)
            return found.reshape(-1, width)
        found = np.empty((len(part), width), np.float32)
        with self.path.open("rb", buffering=0) as file:
            for row, place in zip(found, part.tolist(), strict=True):
                os.preadv(file.fileno(), [row.data], 4 * place * width)
        return found

    def exists(self) -> bool:
        """And is whole."""
        return self.path.exists() and self.path.stat().st_size == 4 * self.shape[0] * self.shape[1]


class SortedRows(NamedTuple):
    """What a folder holds."""

    rows: RowFile
    fingerprint: str
    """Of ids and rows, as that of `Embeddings`."""
    made_of: dict[str, Any]


def made_of(given: RowsOptions, name: str, *, unit_rows: bool) -> dict[str, Any]:
    """By which sorted rows are known again, wherever their files are: ``files`` is how many these
    are, their bytes, and a hash of their names, sizes and times. None of them is read.

    Raises: as `read_embeddings`, if there are no files.
    """
    stats = [(path.name, path.stat()) for path in feature_files(given.folder, name)]
    key = hash_text(json.dumps([(name, s.st_size, s.st_mtime_ns) for name, s in stats]))
    return {
        "files": [len(stats), sum(s.st_size for _, s in stats), key],
        "feature": given.feature,
        "ids": None if given.ids is None else hash_file(given.ids),
        "unit_rows": unit_rows,
    }


def find_sorted(folder: Path) -> SortedRows | None:
    """What `sort_rows` has left; after `drop_rows` without the rows."""
    if not (folder / ABOUT).exists():
        return None
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    rows = RowFile(folder / ROWS, tuple(about["shape"]))
    return SortedRows(rows, about["fingerprint"], about["made_of"])


def sort_rows(
    given: RowsOptions,
    name: str,
    listing: Listing,
    folder: Path,
    *,
    unit_rows: bool,
    on_rows: Callable[[int], object] = lambda count: None,
) -> SortedRows:
    """The rows that are listed, into `folder`, which is emptied first.

    Args:
        unit_rows: bring them to length 1. The fingerprint is that of the rows before.
        on_rows: told how many more have moved; each moves twice, to its bucket and to its place.

    Raises:
        ValueError: numbers that are not finite.
    """
    origin = made_of(given, name, unit_rows=unit_rows)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    count, width = len(listing.ids), listing.width
    size = max(BUCKET_BYTES // (4 * width), -(-count // MOST_BUCKETS))
    buckets = [folder / f"bucket-{number}" for number in range(-(-count // size))]
    kind = np.dtype([("place", np.int64), ("row", np.float32, (width,))])
    _fill(buckets, size, kind, read_parts(given, name, listing), on_rows)
    labels = pa.array(listing.labels, mask=listing.labels < 0)
    write_table(folder / RECORDS, {"id": listing.ids, "label": labels})

    def in_order() -> Iterator[Float[np.ndarray, "r D"]]:
        for number, path in enumerate(buckets):
            found = np.fromfile(path, kind)
            path.unlink()
            part = np.empty((len(found), width), np.float32)
            part[found["place"] - number * size] = found["row"]
            file.write((unit(part) if unit_rows else part).data)
            yield part
            on_rows(len(part))

    ids = (listing.ids[first : first + SLICE].to_pylist() for first in range(0, count, SLICE))
    with replacing(folder / ROWS) as file:
        key = fingerprint(ids, in_order())
    about = {"made_of": origin, "shape": [count, width], "fingerprint": key}
    replace_text(folder / ABOUT, json.dumps(about, indent=1) + "\n")
    return SortedRows(RowFile(folder / ROWS, (count, width)), key, origin)


def _fill(
    buckets: list[Path],
    size: int,
    kind: np.dtype,
    parts: Iterable[tuple[Int64[np.ndarray, " r"], Float[np.ndarray, "r D"]]],
    on_rows: Callable[[int], object],
) -> None:
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in buckets]
        for places, rows in parts:
            pairs = np.empty(len(rows), kind)
            order = np.argsort(places)
            pairs["place"], pairs["row"] = places[order], rows[order]
            ends = np.searchsorted(pairs["place"], size * np.arange(1, len(files) + 1))
            for file, some in zip(files, np.split(pairs, ends[:-1]), strict=True):
                file.write(some.tobytes())
            on_rows(len(rows))


def read_records(folder: Path) -> pa.Table:
    """``id`` and ``label`` (none: null) of the rows."""
    return pq.read_table(folder / RECORDS)


def drop_rows(folder: Path) -> None:
    """Give their space back, and keep what they were."""
    for name in (ROWS, RECORDS):
        (folder / name).unlink(missing_ok=True)
