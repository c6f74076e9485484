"""Features of some records, from folders that may hold very many."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from dinojax.curation.embeddings import RowsOptions
from dinojax.curation_page.features import cosine, rows_of, some_rows, there
from dinojax.embedding.files import Rows, write_parquet


@pytest.fixture
def folder(tmp_path):
    """Three files of two row groups of two rows; row n lies along axis n % 4."""
    (tmp_path / "pool").mkdir()
    for number in range(3):
        parts = []
        for first in (4 * number, 4 * number + 2):
            rows = 3 * np.eye(4, dtype=np.float32)[[first % 4, (first + 1) % 4]]
            ids = [f"r{first}", f"r{first + 1}"]
            parts.append(Rows(ids, np.full(2, -1), {"cls": rows}))
        write_parquet(tmp_path / "pool" / f"f{number}.parquet", parts)
    return tmp_path / "pool"


def test_rows_of_some_ids(folder):
    given = RowsOptions(str(folder))
    found = rows_of([given], ["r9", "r2"], "x")
    assert found["r2"].tolist() == [0, 0, 1, 0] and found["r9"].tolist() == [0, 1, 0, 0]
    assert cosine(found, "r2", found, "r9") == 0 and cosine(found, "r2", found, "r2") == 1
    assert cosine(found, "r2", {}, "r2") is None
    assert rows_of([given], [], "x") == {}


def test_only_row_groups_that_have_one_are_read(folder):
    """The features of all others are garbage here, which would be an error."""
    for path in folder.iterdir():
        data = bytearray(path.read_bytes())
        groups = pq.ParquetFile(path).metadata
        for number in range(groups.num_row_groups):
            column = groups.row_group(number).column(2)
            assert column.path_in_schema.startswith("cls")
            if (path.name, number) != ("f2.parquet", 0):
                first = column.dictionary_page_offset or column.data_page_offset
                data[first : first + column.total_compressed_size] = bytes(
                    [255] * column.total_compressed_size
                )
        path.write_bytes(data)
    given = RowsOptions(str(folder))
    assert rows_of([given], ["r9"], "x")["r9"].tolist() == [0, 1, 0, 0]
    with pytest.raises(OSError):
        rows_of([given], ["r2"], "x")


def test_an_id_of_two_folders_is_no_one(folder):
    given = RowsOptions(str(folder))
    assert rows_of([given, given], ["r1"], "x") == {}


def test_a_part(folder, tmp_path):
    given = RowsOptions(str(folder))
    assert sorted(some_rows([given], 99, "x").ids) == sorted(f"r{n}" for n in range(12))
    part = some_rows([given], 5, "x")
    assert len(part.ids) == len(part.rows) == 5
    assert np.allclose(np.linalg.norm(part.rows, axis=1), 1)
    (tmp_path / "ids.txt").write_text("r3\nr10\n")
    listed = RowsOptions(str(folder), ids=str(tmp_path / "ids.txt"))
    assert set(some_rows([listed], 9, "x").ids) == {"r3", "r10"}


def test_what_is_there(folder, tmp_path):
    given = RowsOptions(str(folder))
    assert there([given]) and not there([]) and not there([RowsOptions()])
    assert not there([given, RowsOptions(str(tmp_path / "gone"))])


def test_mistakes(folder):
    with pytest.raises(
        ValueError, match=r"x: 1 of the ids that are shown have no row, such as 'q'"
    ):
        rows_of([RowsOptions(str(folder))], ["r1", "q"], "x")
    with pytest.raises(ValueError, match=r"x: .* has no column 'patches'; it has \['id', 'label'"):
        rows_of([RowsOptions(str(folder), "patches")], ["r1"], "x")
