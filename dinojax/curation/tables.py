"""Parquet tables between the stages: whole or absent, and the same bytes for the same columns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from dinojax.runtime.atomic import replacing


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Arrays, lists of text, or what `list_column` makes, by name."""
    with replacing(path) as file:
        pq.write_table(pa.table(dict(columns)), file)


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
