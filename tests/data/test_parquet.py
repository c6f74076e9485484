"""Parquet: which columns are read, what rows are called, and the errors."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import write_parquet

from dinojax.data.parquet import ParquetSource


def struct(data: bytes | None, path: str | None = None) -> dict:
    return {"bytes": data, "path": path}


def write(path, columns, features=None, **options):
    table = pa.table(columns)
    if features is not None:
        text = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": text})
    pq.write_table(table, path, **options)
    return path


def labels(source):
    return [source[i].label for i in range(len(source))]


def test_ids_are_file_and_row(tmp_path):
    source = ParquetSource(write_parquet(tmp_path / "x"))
    assert [source.record_id(i) for i in range(6)] == [
        *(f"train-00000.parquet__{row}" for row in range(3)),
        *(f"train-00001.parquet__{row}" for row in range(3)),
    ]
    assert ParquetSource(tmp_path / "x" / "train-00001.parquet").record_id(2) == (
        "train-00001.parquet__2"
    )


def test_a_column_of_ids(tmp_path):
    path = write(tmp_path / "x.parquet", {"image": [b"a", b"b"], "id": [30, 4]})
    assert ParquetSource(path)[1].id == "4"
    write(path, {"image": [b"a", b"b"], "id": ["x", "x"]})
    with pytest.raises(ValueError, match=r"column 'id' whose values are not unique; rename it"):
        ParquetSource(path)


def test_image_columns(tmp_path):
    path = tmp_path / "x.parquet"
    for columns in (
        {"image": [b"a"], "thumbnail": [struct(b"no")]},
        {"image": [struct(b"a", "a.jpg")], "mask": [struct(b"no")]},
        {"img": [struct(b"a", "a.jpg")], "bytes": [b"no"], "depth": [struct(b"d")]},
        {"image": pa.array([b"a"], pa.large_binary())},
    ):
        assert ParquetSource(write(path, columns))[0].image == b"a"
    for columns in ({"img": [b"a"]}, {"a": [struct(b"a")], "b": [struct(b"b")]}, {"image": ["x"]}):
        write(path, columns)
        with pytest.raises(ValueError, match=r"has no column 'image' of bytes or struct<bytes"):
            ParquetSource(path)


def test_labels(tmp_path):
    path, images = tmp_path / "x.parquet", [b"a", b"b", b"c"]
    source = ParquetSource(write(path, {"image": images, "label": [2, None, 0]}))
    assert labels(source) == [2, None, 0] and source.class_names == ["0", "1", "2"]
    assert source.known_labels.tolist() == [2, -1, 0]

    source = ParquetSource(write(path, {"image": images, "label": ["dog", "cat", None]}))
    assert labels(source) == [1, 0, None] and source.class_names == ["cat", "dog"]

    features = {
        "image": {"_type": "Image"},
        "fine": {"_type": "ClassLabel", "names": ["x", "y", "z"]},
        "nested": [{"_type": "Value"}],
    }
    columns = {"image": images, "fine": [1, -1, 0], "nested": [[1], [], []]}
    source = ParquetSource(write(path, columns, features))
    assert labels(source) == [1, None, 0] and source.class_names == ["x", "y", "z"]

    source = ParquetSource(write(path, {"image": images, "fine": [1, 1, 0]}))
    assert labels(source) == [None] * 3 and source.class_names is None


def test_labels_that_are_none(tmp_path):
    path = write(tmp_path / "x.parquet", {"image": [b"a"], "label": [0.5]})
    with pytest.raises(ValueError, match=r"column 'label' is double; labels are integers or str"):
        ParquetSource(path)
    features = {"label": {"_type": "ClassLabel", "names": ["x"]}}
    write(path, {"image": [b"a"], "label": [1]}, features)
    with pytest.raises(ValueError, match=r"x.parquet has labels up to 1 and 1 different names"):
        ParquetSource(path)


def test_rows_across_row_groups_in_any_order(tmp_path):
    images = [bytes([i]) for i in range(100)]
    path = write(tmp_path / "x.parquet", {"image": images}, row_group_size=7)
    source = ParquetSource(path)
    for i in np.random.default_rng(0).permutation(100).tolist():
        assert source[i].image == images[i]


def test_a_row_group_is_read_once_in_order(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", {"image": [b"a"] * 30}, row_group_size=10)
    source, reads = ParquetSource(path), []
    real = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, **options: reads.append(group) or real(self, group, **options),
    )
    for i in range(30):
        source[i]
    assert reads == [0, 1, 2]


def test_image_that_is_only_named(tmp_path):
    images = pa.array([struct(b"a"), struct(None, "b.jpg"), None])
    source = ParquetSource(write(tmp_path / "x.parquet", {"image": images}))
    assert source[0].image == b"a"
    for index in (1, 2):
        with pytest.raises(ValueError, match=rf"'x.parquet__{index}' holds no bytes in 'image'"):
            source[index]


def test_files_that_are_no_dataset(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"x.parquet is not a complete Parquet file \(.*copy it"):
        ParquetSource(path)
    write(path, {"image": pa.array([], pa.binary())})
    with pytest.raises(ValueError, match=r"x.parquet holds no rows; give files that hold at"):
        ParquetSource(path)
    write(path, {"image": [b"a"]})
    write(tmp_path / "y.parquet", {"image": [struct(b"a")]})
    with pytest.raises(ValueError, match=r"y.parquet has other columns than .*x.parquet; give"):
        ParquetSource(tmp_path / "?.parquet")
