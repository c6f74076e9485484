"""`ParquetSource`: images in Parquet files, such as the Hugging Face hub's.

Parquet has no random access below a row group (usually 100 images): a record read out of order
costs all of its group. Reading in order, as `dinojax.prepare` does, costs nothing extra.
"""

import functools
import json
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int32

from dinojax.data.handles import Handles
from dinojax.data.labels import name_classes
from dinojax.data.records import Record
from dinojax.data.shards import find_shards, shard_names
from dinojax.data.source import check_index

KEPT_GROUPS = 2
"""Row groups kept in memory: what is read in order by several threads straddles two."""

MAPS = ("segmentation", "depth")


class ParquetSource:
    """Rows of one Parquet file, or of all that a glob names, sorted by path.

    The image column is ``image`` or the only one that holds images: Hugging Face's
    ``struct<bytes, path>``, or plain binary if it is called ``image``. The label is ``label`` or
    the only column of Hugging Face's type ``ClassLabel``, whose names are the class names; strings
    are classes in alphabetical order. Maps are in ``segmentation`` and ``depth``. Ids are those of
    a column ``id``, else ``FILE__ROW``.

    Raises:
        FileNotFoundError: `path` is not a file and matches none.
        ValueError: not Parquet, no rows, no such column, files of different columns, or ids that
            are not unique.
    """

    def __init__(self, path: str | os.PathLike[str]):
        pattern = os.fspath(path)
        paths = find_shards(pattern, "a .parquet file")
        tables = [_describe(file) for file in paths]
        schema = tables[0][0]
        for path, (other, _) in zip(paths, tables, strict=True):
            if not other.equals(schema):
                raise ValueError(
                    f"{path} has other columns than {paths[0]}; give files of one table"
                )
        features = _huggingface_features(schema)
        self._image = _image_column(schema, features, pattern)
        self._maps = [name for name in MAPS if name in schema.names]

        groups = [(n, g) for n, (_, rows) in enumerate(tables) for g in range(len(rows))]
        self._ends = np.cumsum([tables[n][1][g] for n, g in groups] or [0])
        if not len(self):
            raise ValueError(f"{pattern} holds no rows; give files that hold at least 1")
        self._groups = Handles(
            functools.partial(_read_group, paths, groups, [self._image, *self._maps]), KEPT_GROUPS
        )
        self._labels, self.class_names = _read_labels(paths, schema, features, pattern)
        self._ids = _read_ids(paths, pattern) if "id" in schema.names else None
        self._names = shard_names(pattern, paths)
        self._firsts = np.cumsum([0] + [sum(rows) for _, rows in tables])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        """The record at `index`, its image and maps still encoded.

        Raises:
            IndexError: `index` outside 0..len - 1.
            ValueError: the image is only named, not stored.
        """
        id = self.record_id(index)
        group = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[group - 1]) if group else 0)
        table = self._groups[group]
        image, *maps = (_file_bytes(table[name][row]) for name in (self._image, *self._maps))
        if image is None:
            raise ValueError(
                f"record {id!r} holds no bytes in {self._image!r}, at most a path; "
                "write the images themselves into the Parquet files"
            )
        label = -1 if self._labels is None else int(self._labels[index])
        return Record(
            image=image,
            id=id,
            label=None if label < 0 else label,
            **dict(zip(self._maps, maps, strict=True)),
        )

    @property
    def known_labels(self) -> Int32[np.ndarray, " n"] | None:
        """Of all records, -1: none; no record is read. None: there are no labels."""
        return self._labels

    def record_id(self, index: int) -> str:
        check_index(index, len(self))
        if self._ids is not None:
            return str(self._ids[index].as_py())
        file = int(np.searchsorted(self._firsts, index, side="right")) - 1
        return f"{self._names[file]}__{index - int(self._firsts[file])}"


def _describe(path: str) -> tuple[pa.Schema, list[int]]:
    """Columns, and rows of each row group."""
    try:
        with pq.ParquetFile(path) as file:
            groups = (file.metadata.row_group(g) for g in range(file.num_row_groups))
            return file.schema_arrow, [group.num_rows for group in groups]
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path} is not a complete Parquet file ({str(error).partition('.')[0]}); copy it again"
        ) from error


def _read_group(
    paths: list[str], groups: list[tuple[int, int]], columns: list[str], number: int
) -> pa.Table:
    file, group = groups[number]
    with pq.ParquetFile(paths[file]) as parquet:
        return parquet.read_row_group(group, columns=columns)


def _file_bytes(value: pa.Scalar) -> bytes | None:
    """An encoded image in a cell, struct or binary."""
    if pa.types.is_struct(value.type):
        value = value["bytes"] if value.is_valid else pa.scalar(None)
    return value.as_py()


def _huggingface_features(schema: pa.Schema) -> dict[str, Any]:
    """Column -> description, from the `datasets` library; empty where it did not write the file."""
    text = (schema.metadata or {}).get(b"huggingface")
    return {} if text is None else json.loads(text)["info"].get("features") or {}


def _image_column(schema: pa.Schema, features: dict[str, Any], pattern: str) -> str:
    if "image" in schema.names and _holds_files(schema.field("image").type, binary=True):
        return "image"
    found = [f.name for f in schema if f.name not in MAPS and _holds_files(f.type, binary=False)]
    if len(found) != 1:
        raise ValueError(
            f"{pattern} has no column 'image' of bytes or struct<bytes, path>, and not one other "
            f"such struct; it has {schema.names}"
        )
    return found[0]


def _holds_files(kind: pa.DataType, binary: bool) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return binary and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _read_labels(
    paths: list[str], schema: pa.Schema, features: dict[str, Any], pattern: str
) -> tuple[Int32[np.ndarray, " n"] | None, list[str] | None]:
    """Labels (-1: none) and class names, or None twice."""
    features = {name: f for name, f in features.items() if isinstance(f, dict)}
    classes = [name for name, f in features.items() if f.get("_type") == "ClassLabel"]
    name = "label" if "label" in schema.names else classes[0] if len(classes) == 1 else None
    if name is None:
        return None, None
    column = _read_column(paths, name)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        names = sorted(value for value in column.unique().to_pylist() if value is not None)
        number = {name: label for label, name in enumerate(names)}
        labels = [number.get(value, -1) for value in column.to_pylist()]
        return np.array(labels, np.int32), names
    if not pa.types.is_integer(column.type):
        raise ValueError(f"column {name!r} is {column.type}; labels are integers or strings")
    labels = column.cast(pa.int64()).fill_null(-1).to_numpy().astype(np.int32)
    return labels, name_classes(labels, features.get(name, {}).get("names"), pattern)


def _read_ids(paths: list[str], pattern: str) -> pa.ChunkedArray:
    ids = _read_column(paths, "id")
    if len(ids.unique()) < len(ids) or ids.null_count:
        raise ValueError(f"{pattern} has a column 'id' whose values are not unique; rename it")
    return ids


def _read_column(paths: list[str], name: str) -> pa.ChunkedArray:
    chunks = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            chunks += file.read(columns=[name])[name].chunks
    return pa.chunked_array(chunks)
