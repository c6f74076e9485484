"""Parquet tables between the stages: whole or absent, and the same bytes for the same columns."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from dinojax.runtime.atomic import replacing

GROUP_ROWS = 2**20
"""Rows of a row group: what a worker reads of a table at a time."""


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Arrays, lists of text, or what `list_column` makes, by name."""
    table = pa.table(dict(columns))
    write_parts(path, table.schema, [table])


def write_parts(path: Path, schema: pa.Schema, parts: Iterable[pa.Table]) -> None:
    """The columns of `schema`, row after row, one row group in memory; how the rows are divided
    into `parts` does not show in the file."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(replacing(path))
        writer = stack.enter_context(pq.ParquetWriter(file, schema))
        for group in _groups(part.select(schema.names).cast(schema) for part in parts):
            writer.write_table(group, row_group_size=GROUP_ROWS)


def _groups(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    rest = None
    for part in parts:
        rest = part if rest is None else pa.concat_tables([rest, part])
        while len(rest) >= GROUP_ROWS:
            yield rest.slice(0, GROUP_ROWS).combine_chunks()
            rest = rest.slice(GROUP_ROWS)
    if rest is not None and len(rest):
        yield rest.combine_chunks()


def pieces(path: Path) -> list[pa.Table]:
    """What `read_piece` takes, for each row group of a file; for a file of no rows there is one."""
    with pq.ParquetFile(path) as file:
        about = file.metadata
        rows = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    first = np.cumsum([0, *rows])
    return [pa.table({"group": [g], "first": [int(first[g])]}) for g in range(len(rows))] or [
        pa.table({"group": [-1], "first": [0]})
    ]


def read_piece(piece: pa.Table, path: Path, columns: Sequence[str]) -> pa.Table:
    """These columns of a row group, and ``row``: the number of each row in the file."""
    found = []
    with pq.ParquetFile(path) as file:
        for group, first in zip(*piece.to_pydict().values(), strict=True):
            groups = [] if group < 0 else [group]
            table = file.read_row_groups(groups, columns=list(columns))
            row = pa.array(np.arange(first, first + len(table)))
            found.append(table.append_column("row", row))
    return pa.concat_tables(found).replace_schema_metadata(None)


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`; those that are missing are null."""
    return pa.table(
        [
            table[field.name]
            if field.name in table.column_names
            else pa.nulls(len(table), field.type)
            for field in schema
        ],
        schema=schema,
    )


def list_column(values: Float[np.ndarray, "n D"]) -> pa.FixedSizeListArray:
    """Rows of numbers as one column."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def list_width(kind: pa.DataType) -> int:
    """Of the rows in a column of this type.

    Raises:
        ValueError: the type is another than that of `list_column`.
    """
    if not (pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)):
        raise ValueError(f"a column of type {kind} must be of fixed-size lists of floats")
    return kind.list_size


def read_lists(column: pa.ChunkedArray) -> Float[np.ndarray, "n D"]:
    """What `list_column` was given.

    Raises:
        ValueError: the column has rows that are null, or is of something else.
    """
    width = list_width(column.type)
    whole = column.combine_chunks()
    if whole.null_count or whole.flatten().null_count:
        raise ValueError("a column of features has nulls; leave such rows out")
    return whole.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
