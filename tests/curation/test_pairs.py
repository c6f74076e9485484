"""A pair is in the table once."""

import numpy as np
import pyarrow.parquet as pq

from dinojax.curation.duplicates import Pairs
from dinojax.curation.pairs import write_pairs


def test_pairs_found_from_both_sides(tmp_path):
    one, other = np.asarray([5, 1, 0, 1, 5]), np.asarray([1, 5, 3, 2, 1])
    found = Pairs(one, other, np.float32([0.7, 0.75, 0.9, 0.8, 0.6]))
    write_pairs(tmp_path / "pairs.parquet", found)
    table = pq.read_table(tmp_path / "pairs.parquet").to_pydict()
    assert (table["one"], table["other"]) == ([0, 1, 1], [3, 2, 5])
    np.testing.assert_allclose(table["similarity"], [0.9, 0.8, 0.75])


def test_none(tmp_path):
    none = np.zeros(0, np.int64)
    write_pairs(tmp_path / "pairs.parquet", Pairs(none, none, np.zeros(0)))
    assert len(pq.read_table(tmp_path / "pairs.parquet")) == 0
