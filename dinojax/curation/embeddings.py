"""Features on disk, by record id: what the stages of curation read (`feature_files`).

Rows are taken in the order of a hash of their ids, so that no stage depends on how the files divide
them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Float, Int32, Int64, UInt64

from dinojax.curation.feature_files import feature_files, list_file, read_rows
from dinojax.data.ids import SHOWN, read_ids

# Its functions are made at import: type checkers see no names.
compute: Any = pyarrow.compute


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
    """Rows in the order of `numbers_of` their ids."""

    ids: list[str]
    rows: Float[np.ndarray, "n D"]
    pixels: Int64[np.ndarray, " n"]
    """Of the images as they were stored; 0: unknown."""

    @property
    def fingerprint(self) -> str:
        """`fingerprint` of ids and rows."""
        return fingerprint([self.ids], [self.rows])


class Listing(NamedTuple):
    """Which records have rows, in the order of `numbers_of` their ids; the rows are still in the
    files."""

    ids: pa.LargeStringArray
    labels: Int32[np.ndarray, " n"]
    """Classes, for reports alone; -1: none."""
    places: Int64[np.ndarray, " m"]
    """Of each row of the files, one after the other, where it belongs; -1: it is left out."""
    pixels: Int64[np.ndarray, " n"]
    """Of the images as they were stored; 0: unknown."""
    width: int


def read_embeddings(given: RowsOptions, name: str) -> Embeddings:
    """All rows in memory, as float32.

    Args:
        name: of these options in the configuration, for messages.

    Raises:
        FileNotFoundError: no such folder, or files of it are missing.
        ValueError: no such feature, files that do not fit together, an id twice or none that is
            listed, or numbers that are not finite.
    """
    found = list_records(given, name)
    rows = np.empty((len(found.ids), found.width), np.float32)
    for places, part in read_parts(given, name, found):
        rows[places] = part
    return Embeddings(found.ids.to_pylist(), rows, found.pixels)


def list_records(given: RowsOptions, name: str) -> Listing:
    """All but the rows. Raises: as `read_embeddings`, but for numbers that are not finite."""
    found = [list_file(path, given.feature, name) for path in feature_files(given.folder, name)]
    if not any(len(one.ids) for one in found):
        raise ValueError(
            f"{name}.folder={given.folder} has no rows; embed records that can be read"
        )
    widths = {one.width for one in found if len(one.ids)}
    if len(widths) > 1:
        raise ValueError(
            f"{name}.folder={given.folder} has {given.feature} of widths {sorted(widths)}; give a "
            "folder of one encoder"
        )
    ids = pa.chunked_array([one.ids for one in found])
    kept = np.arange(len(ids)) if given.ids is None else _listed(ids, given.ids, f"{name}.ids")
    numbers = np.concatenate([numbers_of(one.ids.to_pylist()) for one in found])[kept]
    order = np.argsort(numbers, kind="stable")
    places = np.full(len(ids), -1)
    places[kept[order]] = np.arange(len(order))
    kept, numbers = kept[order], numbers[order]
    ids = ids.combine_chunks().take(pa.array(kept))
    _check_different(ids, numbers, str(given.folder))
    labels = np.concatenate([one.labels for one in found])[kept]
    pixels = np.concatenate([one.pixels for one in found])[kept]
    return Listing(ids, labels, places, pixels, *widths)


def read_parts(
    given: RowsOptions, name: str, listing: Listing
) -> Iterator[tuple[Int64[np.ndarray, " r"], Float[np.ndarray, "r D"]]]:
    """(places, rows) of all that is listed, few at a time, in the order of the files.

    Raises:
        ValueError: numbers that are not finite.
    """
    done = 0
    for path in feature_files(given.folder, name):
        for part in read_rows(path, given.feature):
            places = listing.places[done : done + len(part)]
            done += len(part)
            kept = places >= 0
            bad = places[kept & ~np.isfinite(part).all(axis=1)]
            if len(bad):
                raise ValueError(
                    f"{path} has rows of {given.feature} that are not finite, such as that of "
                    f"{listing.ids[bad[0]].as_py()!r}; embed these records again or leave them out"
                )
            yield places[kept], part[kept]


def fingerprint(ids: Iterable[Sequence[str]], rows: Iterable[Float[np.ndarray, "_ D"]]) -> str:
    """Of all ids and then all rows, however each are divided: 16 hex digits."""
    found, before = blake2b(digest_size=8), ""
    for some in ids:
        found.update((before + "\0".join(some)).encode())
        before = "\0"
    for part in rows:
        found.update(np.ascontiguousarray(part).data)
    return found.hexdigest()


def numbers_of(ids: Sequence[str]) -> UInt64[np.ndarray, " n"]:
    """A 64-bit hash of each."""
    digests = b"".join(blake2b(id.encode(), digest_size=8).digest() for id in ids)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _listed(ids: pa.ChunkedArray, path: str, name: str) -> np.ndarray:
    """Places of the ids that a file lists."""
    wanted = pa.array(read_ids(path), pa.large_string()).unique()
    kept = np.flatnonzero(compute.is_in(ids, value_set=wanted).to_numpy())
    unknown = sorted(
        wanted.filter(compute.invert(compute.is_in(wanted, value_set=ids))).to_pylist()
    )
    if unknown:
        raise ValueError(
            f"{name}={path} lists {len(unknown)} ids that have no row: "
            f"{', '.join(map(repr, unknown[:SHOWN]))}; list ids of these rows, such as "
            f"{ids[0].as_py()!r}"
        )
    return kept


def _check_different(ids: pa.LargeStringArray, numbers: np.ndarray, folder: str) -> None:
    for place in np.flatnonzero(numbers[1:] == numbers[:-1]).tolist():
        if ids[place] == ids[place + 1]:
            raise ValueError(
                f"{folder} has two rows with the id {ids[place].as_py()!r}; ids must differ, as "
                "over the sources of one mixture: embed each source into a folder of its own"
            )
