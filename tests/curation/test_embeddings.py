"""Features on disk: the rows that were written, however they are divided, and what is refused."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feature_files import IDS, LABELS, ROWS, written

from dinojax.curation.embeddings import (
    RowsOptions,
    list_records,
    numbers_of,
    read_embeddings,
    unit,
)


def read(folder, **options):
    return read_embeddings(RowsOptions(str(folder), **options), "cluster.rows")


def labels(folder):
    return list_records(RowsOptions(str(folder)), "cluster.rows").labels


def test_rows_are_those_of_their_ids(tmp_path):
    found = read(written(tmp_path / "a"))
    place = [IDS.index(id) for id in found.ids]
    assert sorted(place) == list(range(10)) and place != sorted(place)
    np.testing.assert_array_equal(found.rows, ROWS[place])
    np.testing.assert_array_equal(labels(tmp_path / "a"), LABELS[place])
    assert (np.diff(numbers_of(found.ids).astype(float)) > 0).all()


def test_files_do_not_matter_and_contents_do(tmp_path):
    one = read(written(tmp_path / "a"))
    mixed = np.asarray([4, 2, 9, 0, 1, 3, 8, 7, 5, 6])
    folder = written(
        tmp_path / "b", ((0, 2), (2, 3), (3, 10)), ROWS[mixed], [IDS[i] for i in mixed]
    )
    assert read(folder).ids == one.ids and read(folder).fingerprint == one.fingerprint
    other = ROWS + np.eye(10, 3, dtype=np.float32)
    assert read(written(tmp_path / "c", rows=other)).fingerprint != one.fingerprint
    named = read(written(tmp_path / "d", ids=[*IDS[:-1], "image x"]))
    assert named.fingerprint != one.fingerprint


def test_a_list_of_ids(tmp_path):
    (tmp_path / "ids.txt").write_text("image 7\nimage 2\n")
    folder = written(tmp_path / "a")
    found = read(folder, ids=str(tmp_path / "ids.txt"))
    assert set(found.ids) == {"image 2", "image 7"}
    np.testing.assert_array_equal(found.rows[found.ids.index("image 7")], ROWS[7])
    (tmp_path / "ids.txt").write_text("image 7\nimage 70\n")
    with pytest.raises(ValueError, match=r"lists 1 ids that have no row: 'image 70'; list ids of"):
        read(folder, ids=str(tmp_path / "ids.txt"))


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cluster.rows.folder=None is no folder; give one that"):
        read_embeddings(RowsOptions(), "cluster.rows")
    with pytest.raises(FileNotFoundError, match=r"is not a folder; give one that dinojax.embed"):
        read(tmp_path / "none")
    with pytest.raises(
        FileNotFoundError, match=r"has no files of .parquet or .array_record; write"
    ):
        read(tmp_path)
    folder = written(tmp_path / "a")
    with pytest.raises(ValueError, match=r"has no column 'clss'; did you mean cls\?"):
        read(folder, feature="clss")
    with pytest.raises(ValueError, match=r"feature='label' of .*must be of fixed-size lists"):
        read(folder, feature="label")
    (folder / "features-00001-of-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="is not a complete Parquet file; write it again"):
        read(folder)
    (folder / "features-00001-of-00002.parquet").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"has 1 of the 2 files that belong to features-00000-of-00002.parquet; call",
    ):
        read(folder)


def test_several_sets_of_files(tmp_path):
    """Of two calls with other shards, under two names, or beside a file of another's."""
    folder = written(tmp_path / "a")
    written(folder, ((0, 10),))
    two, one = "2 such as features-00000-of-00002.parquet", "1 such as features-00000-of-00001.parq"
    with pytest.raises(ValueError, match=rf"has 2 sets of files: {one}.*; {two}; give each a fold"):
        read(folder)
    for number, name in enumerate(("val-00000-of-00002.parquet", "more.parquet")):
        other = written(tmp_path / f"b{number}")
        (other / "features-00001-of-00002.parquet").rename(other / name)
        with pytest.raises(ValueError, match=f"1 such as {name}; give each a folder of its own"):
            read(other)


def test_rows_that_do_not_fit(tmp_path):
    bad = ROWS.copy()
    bad[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"rows of cls that are not finite, such as .*'image 7'"):
        read(written(tmp_path / "nan", rows=bad))
    with pytest.raises(ValueError, match=r"two rows with the id 'image 3'; ids must differ"):
        read(written(tmp_path / "twice", ids=[*IDS[:9], "image 3"]))
    folder = written(tmp_path / "a")
    narrow = pa.FixedSizeListArray.from_arrays(np.ones(4, np.float32), 2)
    pq.write_table(
        pa.table({"id": ["u", "v"], "cls": narrow}), folder / "features-00002-of-00002.parquet"
    )
    for path in folder.glob("*.parquet"):
        path.rename(folder / re.sub("-of.*", ".parquet", path.name))
    with pytest.raises(ValueError, match=r"has cls of widths \[2, 3\]; give a folder of one"):
        read(folder)


def test_unit_rows():
    np.testing.assert_allclose(unit(np.asarray([[3.0, 4], [0, 0]])), [[0.6, 0.8], [0, 0]])


def test_array_record_is_read_as_well(tmp_path):
    one = read(written(tmp_path / "a"))
    other = read(written(tmp_path / "b", ((0, 3), (3, 10)), format="array_record"))
    assert other.ids == one.ids and other.fingerprint == one.fingerprint
    np.testing.assert_array_equal(labels(tmp_path / "b"), labels(tmp_path / "a"))
    assert not other.pixels.any()


def test_what_is_refused_of_array_record(tmp_path):
    folder = written(tmp_path / "a", format="array_record")
    with pytest.raises(ValueError, match=r"has no feature 'clss'; did you mean cls\?"):
        read(folder, feature="clss")
    (folder / "features-00001-of-00002.array_record").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"has 1 of the 2 files that belong to features-00000"
    ):
        read(folder)
    written(folder)
    with pytest.raises(ValueError, match=r"has files of .parquet and .array_record; leave one"):
        read(folder)
    spoiled = written(tmp_path / "b", ((0, 10),), format="array_record")
    path = spoiled / "features-00000-of-00001.array_record"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a complete ArrayRecord file"):
        read(spoiled)


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int64(), pa.null()])
def test_labels_of_other_types(tmp_path, kind):
    given = pa.array([None] * 2 if kind == pa.null() else [3, None], kind)
    rows = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0], pa.float32()), 1)
    pq.write_table(
        pa.table({"id": ["a", "b"], "label": given, "cls": rows}), tmp_path / "x.parquet"
    )
    found = read(tmp_path)
    assert labels(tmp_path)[found.ids.index("a")] == (-1 if kind == pa.null() else 3)
    assert labels(tmp_path)[found.ids.index("b")] == -1


def test_labels_of_text(tmp_path):
    rows = pa.FixedSizeListArray.from_arrays(pa.array([1.0], pa.float32()), 1)
    pq.write_table(pa.table({"id": ["a"], "label": ["cat"], "cls": rows}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet has labels of string; give integers, or no"):
        read(tmp_path)


@pytest.mark.parametrize("format", ["parquet", "array_record"])
def test_a_file_without_rows(tmp_path, format):
    """As `dinojax.embed` leaves it where no image of a shard can be read."""
    folder = written(tmp_path / "a", ((0, 10), (10, 10)), format=format)
    assert read(folder).fingerprint == read(written(tmp_path / "b")).fingerprint
    nothing = written(tmp_path / "c", ((0, 0),), format=format)
    with pytest.raises(ValueError, match=r"cluster.rows.folder=.*c has no rows; embed records"):
        read(nothing)
