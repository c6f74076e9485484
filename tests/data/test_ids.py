"""Lists of ids: what is read from a file, and which records they name."""

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import ArraySource

from dinojax.data.ids import find, read_ids, select
from dinojax.data.source import Source
from dinojax.data.subset import Subset


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_text(tmp_path):
    (tmp_path / "ids.txt").write_bytes("b é\na\r\n\nb é\nc ".encode())
    assert read_ids(tmp_path / "ids.txt") == ["b é", "a", "b é", "c "]


def test_parquet(tmp_path):
    path = tmp_path / "ids.parquet"
    assert read_ids(parquet(path, id=["b", "a", "b"], score=[1, 2, 3])) == ["b", "a", "b"]
    assert read_ids(parquet(path, id=[7, 10])) == ["7", "10"]
    assert read_ids(parquet(path, id=["a", "b", "c"], multiplicity=[2, 0, 1])) == ["a", "a", "c"]


def test_select_keeps_order_and_multiplicity():
    subset = select(ArraySource(10), ["array/7", "array/2", "array/7"])
    assert isinstance(subset, Source)
    assert [subset[i].id for i in range(3)] == ["array/7", "array/2", "array/7"]
    assert [subset[i].label for i in range(3)] == [1, 0, 1]
    assert subset.class_names == ["even", "odd"]
    copy = pickle.loads(pickle.dumps(subset))
    assert [copy.record_id(i) for i in range(3)] == ["array/7", "array/2", "array/7"]


def test_unknown_ids():
    ids = [f"array/{i}" for i in range(5, 15)]
    with pytest.raises(ValueError) as error:
        select(ArraySource(10), ids * 2)
    assert str(error.value) == (
        "5 of 10 listed ids are not in the source of 10 records: 'array/10', 'array/11', "
        "'array/12', ...; its first id is 'array/0': list ids of this source"
    )


def test_files_that_list_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no.txt is not a file; give a text or Parquet"):
        read_ids(tmp_path / "no.txt")
    (tmp_path / "ids.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"ids.txt lists no ids; list at least 1"):
        read_ids(tmp_path / "ids.txt")
    path = tmp_path / "ids.parquet"
    with pytest.raises(ValueError, match=r"lists no ids"):
        read_ids(parquet(path, id=["a"], multiplicity=[0]))
    with pytest.raises(ValueError, match=r"has no column 'id'; it has \['ids'\]"):
        read_ids(parquet(path, ids=["a"]))
    for wrong in ([-1], [0.5]):
        with pytest.raises(ValueError, match=r"a multiplicity that is no count; use integers"):
            read_ids(parquet(path, id=["a"], multiplicity=wrong))
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"ids.parquet is not a complete Parquet file; write it"):
        read_ids(path)


def test_find_reads_no_image_and_takes_the_first():
    source = ArraySource(4)
    twice = Subset(source, [2, 0, 2])
    assert find(twice, [source.record_id(2), source.record_id(3), "x"]) == {source.record_id(2): 0}
