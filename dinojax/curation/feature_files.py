"""The files of features that stages of curation read: Parquet, as `dinojax.embed` writes them.

A column ``id`` and, per feature, one of fixed-size lists of floats; ``label``, ``height`` and
``width`` may be missing.
"""

import contextlib
import difflib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int32, Int64

from dinojax.curation.tables import list_width, read_lists

OF = re.compile(r"-of-(\d+)\.parquet$")
SIZE = ("height", "width")
"""Columns with the images' sizes, where there are any."""
PART = 2**13
"""Rows that are read at a time, or a row group."""


def feature_files(folder: str | None, name: str) -> list[Path]:
    """In the order of their names.

    Args:
        name: of the options in the configuration that say `folder`, for messages.

    Raises:
        FileNotFoundError: no such folder, or files of it are missing.
        ValueError: no folder is given.
    """
    if folder is None:
        raise ValueError(f"{name}.folder=None is no folder; give one that dinojax.embed wrote")
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"{name}.folder={folder} is not a folder; give one that dinojax.embed wrote"
        )
    paths = sorted(Path(folder).glob("[!._]*.parquet"))  # no drafts
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


def list_file(
    path: Path, feature: str, name: str
) -> tuple[pa.LargeStringArray, Int32[np.ndarray, " n"], Int64[np.ndarray, " n"], int]:
    """(ids, labels, pixels, width of the rows) of one file.

    Raises:
        ValueError: no Parquet file, or one without ids or without such a feature.
    """
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
        labels = table["label"].fill_null(-1).to_numpy().astype(np.int32)
    pixels = np.zeros(len(ids), np.int64)
    if set(SIZE) <= set(table.column_names):
        height, width_px = (table[side].fill_null(0).to_numpy().astype(np.int64) for side in SIZE)
        pixels = height * width_px
    return ids, labels, pixels, width


def read_rows(path: Path, feature: str) -> Iterator[Float[np.ndarray, "r D"]]:
    """By row groups: those of `dinojax.embed` are small, and several are read at a time."""
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
