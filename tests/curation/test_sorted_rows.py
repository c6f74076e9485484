"""Rows sorted on disk: those that memory would hold, and found again as long as files stay."""

import os

import numpy as np
import pytest
from feature_files import IDS, LABELS, ROWS, written

from dinojax.curation import sorted_rows
from dinojax.curation.embeddings import RowsOptions, list_records, read_embeddings, unit
from dinojax.curation.sorted_rows import drop_rows, find_sorted, made_of, read_records, sort_rows

NAME = "cluster.rows"


def sort(given, folder, *, unit_rows=False):
    return sort_rows(given, NAME, list_records(given, NAME), folder, unit_rows=unit_rows)


def origin(given, *, unit_rows=False):
    return made_of(given, NAME, unit_rows=unit_rows)


@pytest.mark.parametrize("buckets", [1, 4])
@pytest.mark.parametrize("unit_rows", [False, True])
def test_they_are_those_that_memory_holds(tmp_path, monkeypatch, buckets, unit_rows):
    monkeypatch.setattr(sorted_rows, "BUCKET_BYTES", 36 if buckets > 1 else 2**27)
    monkeypatch.setattr(sorted_rows, "SLICE", 4)
    (tmp_path / "ids.txt").write_text("\n".join(IDS[:5] + IDS[6:]))
    given = RowsOptions(str(written(tmp_path / "a")), ids=str(tmp_path / "ids.txt"))
    found, expected = (
        sort(given, tmp_path / "to", unit_rows=unit_rows),
        read_embeddings(given, NAME),
    )
    rows = unit(expected.rows) if unit_rows else expected.rows
    assert found.rows.shape == rows.shape == (9, 3)
    np.testing.assert_array_equal(found.rows[:], rows)
    np.testing.assert_array_equal(found.rows[np.asarray([7, 0, 3])], rows[[7, 0, 3]])
    np.testing.assert_array_equal(found.rows[8:30], rows[8:])
    assert found.rows[30:40].shape == (0, 3)
    assert found.fingerprint == expected.fingerprint
    table = read_records(tmp_path / "to")
    assert table["id"].to_pylist() == expected.ids
    np.testing.assert_array_equal(table["label"].fill_null(-1), list_records(given, NAME).labels)
    assert table["label"].null_count == (LABELS[[0, 1, 2, 3, 4, 6, 7, 8, 9]] < 0).sum()
    left = {"rows.f32", "records.parquet", "sorted.json"}
    assert {path.name for path in (tmp_path / "to").iterdir()} == left


def test_they_are_found_again(tmp_path):
    folder, to = written(tmp_path / "a"), tmp_path / "to"
    given = RowsOptions(str(folder))
    assert find_sorted(to) is None
    found = sort(given, to)
    assert find_sorted(to) == found and found.rows.exists()
    assert found.made_of == origin(given) != origin(given, unit_rows=True)
    folder = folder.rename(tmp_path / "b")
    assert found.made_of == origin(RowsOptions(str(folder)))
    os.utime(folder / "features-00001-of-00002.parquet", ns=(1, 1))
    assert found.made_of != origin(RowsOptions(str(folder)))
    drop_rows(to)
    assert find_sorted(to) == found and not found.rows.exists()


def test_what_is_not_whole_is_nothing(tmp_path):
    """Here the second file is bad; a process that dies leaves the same: no ``sorted.json``."""
    bad = ROWS.copy()
    bad[7, 1] = np.inf
    given, to = RowsOptions(str(written(tmp_path / "a", rows=bad))), tmp_path / "to"
    with pytest.raises(ValueError, match=r"not finite, such as that of 'image 7'; embed these"):
        sort(given, to)
    assert list(to.iterdir()) and find_sorted(to) is None
    (tmp_path / "a" / "features-00001-of-00002.parquet").unlink()
    (tmp_path / "a" / "features-00000-of-00002.parquet").rename(tmp_path / "a" / "x.parquet")
    assert len(sort(given, to).rows) == 6 and not list(to.glob("bucket*"))
