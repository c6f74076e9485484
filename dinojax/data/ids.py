"""Lists of record ids, such as curation emits: what of a source is used, and how often."""

import os
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dinojax.data.source import Source
from dinojax.data.subset import Subset

SHOWN = 3


def read_ids(path: str | os.PathLike[str]) -> list[str]:
    """Ids in the order of the file; one that stands there twice counts twice.

    A ``.parquet`` file has a column ``id``, and where it has one ``multiplicity``, each id counts
    that often. Any other file is text with one id per line.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no ids, or a Parquet file without the column.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"{name} is not a file; give a text or Parquet file of record ids")
    ids = _read_parquet(name) if name.endswith(".parquet") else _read_text(name)
    if not ids:
        raise ValueError(f"{name} lists no ids; list at least 1")
    return ids


def select(source: Source, ids: list[str]) -> Subset:
    """The records with these ids, in this order, as often as each is listed.

    Raises:
        ValueError: an id that the source does not have; names the first few.
    """
    wanted = set(ids)
    place = find(source, wanted)
    unknown = [id for id in dict.fromkeys(ids) if id not in place]
    if unknown:
        more = ", ..." if len(unknown) > SHOWN else ""
        raise ValueError(
            f"{len(unknown)} of {len(wanted)} listed ids are not in the source of {len(source)} "
            f"records: {', '.join(map(repr, unknown[:SHOWN]))}{more}; its first id is "
            f"{source.record_id(0)!r}: list ids of this source"
        )
    return Subset(source, np.array([place[id] for id in ids], np.int64))


def find(source: Source, ids: Collection[str]) -> dict[str, int]:
    """Where those of the ids stand that the source has, the first of equal ones. Reads no image."""
    wanted, place = frozenset(ids), {}
    for index in range(len(source)):
        id = source.record_id(index)
        if id in wanted:
            place.setdefault(id, index)
    return place


def _read_text(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        lines = (line.removesuffix("\n") for line in file)
        return [line for line in lines if line]


def _read_parquet(path: str) -> list[str]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "id" not in names:
                raise ValueError(f"{path} has no column 'id'; it has {names}")
            table = file.read(columns=[n for n in ("id", "multiplicity") if n in names])
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a complete Parquet file; write it again") from error
    ids = [str(value) for value in table["id"].to_pylist()]
    if "multiplicity" not in table.column_names:
        return ids
    times = table["multiplicity"].to_numpy()
    if times.dtype.kind not in "iu" or (times < 0).any():
        raise ValueError(f"{path} has a multiplicity that is no count; use integers from 0 up")
    return [id for id, count in zip(ids, times.tolist(), strict=True) for _ in range(count)]
