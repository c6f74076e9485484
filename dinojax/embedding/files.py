"""Rows of features in one file: Parquet, or ArrayRecord of ``tf.train.Example``.

A row is ``id`` (text), ``label`` (the class; none: null, and -1 in ArrayRecord) and one column of
float32 numbers per feature, flattened; their shapes are in ``_about.json`` beside the files. In
Parquet, ``height`` and ``width`` are those of the image as it is stored, upright (null: unknown).
What is written comes batch by batch, and no more than two are held; a batch of Parquet is a row
group.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python import array_record_module  # type: ignore[attr-defined]
from jaxtyping import Float, Int

from dinojax.data.examples import feature_example
from dinojax.runtime.atomic import replacing


class Rows(NamedTuple):
    """Of a batch of records, in their order; of unreadable ones none."""

    ids: Sequence[str]
    labels: Int[np.ndarray, " n"]
    """-1: none."""
    features: Mapping[str, Float[np.ndarray, "n ..."]]
    sizes: Int[np.ndarray, "n 2"] | None = None
    """(height, width) by `dinojax.data.sizes.stored_size`; 0: unknown. None: no columns."""


def write_parquet(path: Path, batches: Iterable[Rows]) -> None:
    """Whole or not at all. There is at least one batch; it may be of no rows."""
    with contextlib.ExitStack() as stack:
        file, writer = stack.enter_context(replacing(path)), None
        for rows in batches:
            table = _table(rows)
            writer = writer or stack.enter_context(pq.ParquetWriter(file, table.schema))
            if rows.ids:
                writer.write_table(table)


def _table(rows: Rows) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "id": pa.array(list(rows.ids), pa.string()),
        "label": pa.array(rows.labels.astype(np.int32), pa.int32(), mask=rows.labels < 0),
    }
    if rows.sizes is not None:
        for name, side in zip(("height", "width"), rows.sizes.T, strict=True):
            columns[name] = pa.array(side.astype(np.int32), pa.int32(), mask=side == 0)
    for name, values in rows.features.items():
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, math.prod(values.shape[1:]))
    return pa.table(columns)


def write_array_record(path: Path, batches: Iterable[Rows]) -> None:
    """Whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        writer = array_record_module.ArrayRecordWriter(os.fspath(draft), "group_size:1")
        for rows in batches:
            for place, (id, label) in enumerate(zip(rows.ids, rows.labels.tolist(), strict=True)):
                features = {name: values[place] for name, values in rows.features.items()}
                writer.write(feature_example(id, label, features))
        writer.close()
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def count_parquet(path: Path) -> int:
    """Rows of a file, by its footer."""
    return pq.read_metadata(path).num_rows


def count_array_record(path: Path) -> int:
    reader = array_record_module.ArrayRecordReader(os.fspath(path))
    try:
        return reader.num_records()
    finally:
        reader.close()


class Format(NamedTuple):
    """How rows are kept."""

    ending: str
    """Of the files' names."""
    write: Callable[[Path, Iterable[Rows]], None]
    count: Callable[[Path], int]


FORMATS = {
    "parquet": Format(".parquet", write_parquet, count_parquet),
    "array_record": Format(".array_record", write_array_record, count_array_record),
}
