"""A pair is in the table once."""

import numpy as np
import pyarrow.parquet as pq

from dinojax.curation.duplicates import Pairs
from dinojax.curation.pairs import count_full, full_lists, write_pairs
from dinojax.evaluation.nearest import Neighbours


def test_pairs_found_from_both_sides(tmp_path):
    one, other = np.asarray([5, 1, 0, 1, 5]), np.asarray([1, 5, 3, 2, 1])
    found = Pairs(one, other, np.float32([0.7, 0.75, 0.9, 0.8, 0.6]))
    write_pairs(tmp_path / "pairs.parquet", found, 4)
    assert full_lists(tmp_path / "pairs.parquet") == 4
    table = pq.read_table(tmp_path / "pairs.parquet").to_pydict()
    assert (table["one"], table["other"]) == ([0, 1, 1], [3, 2, 5])
    np.testing.assert_allclose(table["similarity"], [0.9, 0.8, 0.75])


def test_none(tmp_path):
    none = np.zeros(0, np.int64)
    write_pairs(tmp_path / "pairs.parquet", Pairs(none, none, np.zeros(0)))
    assert len(pq.read_table(tmp_path / "pairs.parquet")) == 0


def test_full_lists():
    """A list that ends above the threshold, unless it holds the whole bank."""
    similarity = np.float32([[1, 0.7, 0.65], [1, 0.9, 0.6], [1, 0.8, -1]])
    found = Neighbours(similarity, np.asarray([[0, 1, 2], [1, 0, 2], [2, 0, -1]]))
    assert (count_full(found, 0.6, 4), count_full(found, 0.6, 3)) == (1, 0)
