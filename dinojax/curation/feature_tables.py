"""Features in Parquet: a column ``id``, and per feature one of fixed-size lists of floats.

``label``, ``height`` and ``width`` may be missing.
"""

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int32, Int64

from dinojax.curation.tables import list_width, read_lists

SIZE = ("height", "width")
"""Columns with the images' sizes, where there are any."""
PART = 2**13
"""Rows that are read at a time, or a row group."""


class Listed(NamedTuple):
    """All but the rows of one file."""

    ids: pa.LargeStringArray
    labels: Int32[np.ndarray, " n"]
    """-1: none."""
    pixels: Int64[np.ndarray, " n"]
    """0: unknown."""
    width: int
    """Of the rows; 0 of a file that has none and does not say."""


def list_table(path: Path, feature: str, name: str) -> Listed:
    """As `feature_files.list_file`."""
    with _opened(path) as file:
        schema = file.schema_arrow
        for column in ("id", feature):
            if column not in schema.names:
                near = difflib.get_close_matches(column, schema.names, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {schema.names}"
                raise ValueError(f"{name}: {path} has no column {column!r}; {hint}")
        try:
            width = list_width(schema.field(feature).type)
        except ValueError as error:
            raise ValueError(f"{name}.feature={feature!r} of {path}: {error}") from None
        table = file.read(columns=[n for n in ("id", "label", *SIZE) if n in schema.names])
    ids = table["id"].cast(pa.large_string()).combine_chunks()
    if ids.null_count:
        raise ValueError(f"{path} has {ids.null_count} rows without id; leave them out")
    labels = np.full(len(ids), -1, np.int32)
    if "label" in table.column_names:
        kind = table["label"].type
        if not (pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise ValueError(f"{path} has labels of {kind}; give integers, or no column 'label'")
        labels = table["label"].cast(pa.int64()).fill_null(-1).to_numpy().astype(np.int32)
    pixels = np.zeros(len(ids), np.int64)
    if set(SIZE) <= set(table.column_names):
        height, width_px = (table[side].fill_null(0).to_numpy().astype(np.int64) for side in SIZE)
        pixels = height * width_px
    return Listed(ids, labels, pixels, width)


def read_table_rows(path: Path, feature: str) -> Iterator[Float[np.ndarray, "r D"]]:
    """As `feature_files.read_rows`."""
    # Row groups of `dinojax.embed` are small: several are read at a time.
    with _opened(path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        part = (np.cumsum(sizes) - sizes) // PART
        for number in np.unique(part):
            groups = np.flatnonzero(part == number).tolist()
            try:
                rows = read_lists(file.read_row_groups(groups, columns=[feature])[feature])
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            yield np.asarray(rows, np.float32)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a complete Parquet file; write it again") from error
