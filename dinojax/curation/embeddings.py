"""Features on disk, by record id: what the stages of curation read.

A folder of Parquet files with a column ``id`` and, per feature, one of fixed-size lists of floats:
what `dinojax.embed` writes, and any other encoder can; ``label``, ``height`` and ``width`` may be
missing. Rows are taken in the order of a hash of their ids, so that no stage depends on how the
files divide them.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int32, Int64, UInt64

from dinojax.curation.tables import read_lists
from dinojax.data.ids import SHOWN, read_ids

OF = re.compile(r"-of-(\d+)\.parquet$")
SIZE = ("height", "width")
"""Columns with the images' sizes, where there are any."""


@dataclass(frozen=True)
class RowsOptions:
    """Which rows a stage reads."""

    folder: str | None = None
    """Of `dinojax.embed`."""
    feature: str = "cls"
    """A column of its files."""
    ids: str | None = None
    """Only the rows that a list names, as data.ids; such as what is left after dedup. None: all."""


class Embeddings(NamedTuple):
    """Rows in the order of `numbers`."""

    ids: list[str]
    numbers: UInt64[np.ndarray, " n"]
    """A hash of each id: what draws go by."""
    labels: Int32[np.ndarray, " n"]
    """Classes, for reports alone; -1: none."""
    rows: Float[np.ndarray, "n D"]
    pixels: Int64[np.ndarray, " n"]
    """Of the images as they were stored; 0: unknown."""

    @property
    def fingerprint(self) -> str:
        """Of ids and rows, 16 hex digits."""
        found = blake2b("\0".join(self.ids).encode(), digest_size=8)
        found.update(np.ascontiguousarray(self.rows).data)
        return found.hexdigest()


def read_embeddings(given: RowsOptions, name: str) -> Embeddings:
    """All rows in memory, as float32.

    Args:
        name: of these options in the configuration, for messages.

    Raises:
        FileNotFoundError: no such folder, or files of it are missing.
        ValueError: no such feature, files that do not fit together, an id twice or none that is
            listed, or numbers that are not finite.
    """
    if given.folder is None:
        raise ValueError(f"{name}.folder=None is no folder; give one that dinojax.embed wrote")
    found = [_read(path, given.feature, name) for path in _files(Path(given.folder), name)]
    widths = {rows.shape[1] for _, _, rows, _ in found}
    if len(widths) > 1:
        raise ValueError(
            f"{name}.folder={given.folder} has {given.feature} of widths {sorted(widths)}; give a "
            "folder of one encoder"
        )
    ids = [id for part, *_ in found for id in part]
    kept = np.arange(len(ids)) if given.ids is None else _listed(ids, given.ids, f"{name}.ids")
    numbers = numbers_of([ids[i] for i in kept])
    order = np.argsort(numbers, kind="stable")
    kept, numbers = kept[order], numbers[order]
    ids = [ids[i] for i in kept]
    _check_different(ids, numbers, given.folder)
    columns = list(zip(*found, strict=True))[1:]
    labels, rows, pixels = (np.concatenate(parts)[kept] for parts in columns)
    return Embeddings(ids, numbers, labels, rows, pixels)


def numbers_of(ids: Sequence[str]) -> UInt64[np.ndarray, " n"]:
    """A 64-bit hash of each."""
    digests = b"".join(blake2b(id.encode(), digest_size=8).digest() for id in ids)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def unit(rows: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
    """Rows of length 1; zeros stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def _files(folder: Path, name: str) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name}.folder={folder} is not a folder; give one that dinojax.embed wrote"
        )
    paths = sorted(folder.glob("[!._]*.parquet"))  # no drafts
    if not paths:
        raise FileNotFoundError(
            f"{name}.folder={folder} has no Parquet files; write them with dinojax.embed(SOURCE, "
            f"MODEL, '{folder}')"
        )
    counts = {int(match[1]) for path in paths if (match := OF.search(path.name))}
    if counts and counts != {len(paths)}:
        raise FileNotFoundError(
            f"{name}.folder={folder} has {len(paths)} files whose names count {sorted(counts)}; "
            "call dinojax.embed again, which writes those that are missing"
        )
    return paths


def _read(
    path: Path, feature: str, name: str
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """(ids, labels, rows, pixels) of one file."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for column in ("id", feature):
                if column not in names:
                    near = difflib.get_close_matches(column, names, n=1)
                    hint = f"did you mean {near[0]}?" if near else f"it has {names}"
                    raise ValueError(f"{name}: {path} has no column {column!r}; {hint}")
            wanted = ("id", "label", *SIZE, feature)
            table = file.read(columns=[n for n in wanted if n in names])
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a complete Parquet file; write it again") from error
    ids = [str(id) for id in table["id"].to_pylist()]
    try:
        rows = np.asarray(read_lists(table[feature]), np.float32)
    except ValueError as error:
        raise ValueError(f"{name}.feature={feature!r} of {path}: {error}") from None
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{path} has {len(bad)} rows of {feature} that are not finite, the first of "
            f"{ids[bad[0]]!r}; embed these records again or leave them out"
        )
    labels = np.full(len(ids), -1, np.int32)
    if "label" in names:
        labels = table["label"].fill_null(-1).to_numpy().astype(np.int32)
    pixels = np.zeros(len(ids), np.int64)
    if set(SIZE) <= set(names):
        height, width = (table[side].fill_null(0).to_numpy().astype(np.int64) for side in SIZE)
        pixels = height * width
    return ids, labels, rows, pixels


def _listed(ids: list[str], path: str, name: str) -> np.ndarray:
    """Places of the ids that a file lists."""
    wanted = set(read_ids(path))
    kept = np.asarray([place for place, id in enumerate(ids) if id in wanted], np.int64)
    unknown = sorted(wanted - {ids[place] for place in kept})
    if unknown:
        raise ValueError(
            f"{name}={path} lists {len(unknown)} ids that have no row: "
            f"{', '.join(map(repr, unknown[:SHOWN]))}; list ids of these rows, such as {ids[0]!r}"
        )
    return kept


def _check_different(ids: list[str], numbers: np.ndarray, folder: str) -> None:
    for place in np.flatnonzero(numbers[1:] == numbers[:-1]):
        if ids[place] == ids[place + 1]:
            raise ValueError(
                f"{folder} has two rows with the id {ids[place]!r}; ids must differ, as over the "
                "sources of one mixture: embed each source into a folder of its own"
            )
