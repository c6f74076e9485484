"""Components by stars, from pairs in many shards, are those of SciPy."""

import logging

import numpy as np
import pyarrow as pa
import pytest
from divided import divide

from dinojax.curation.duplicates import Pairs, components
from dinojax.curation.stars import large_stars, least_of_each, linked, small_stars


def pairs_of(one, other):
    return pa.table({"one": np.asarray(one, np.int64), "other": np.asarray(other, np.int64)})


def found(tables, rows):
    """Of each of `rows` rows its component, itself where none was found."""
    component = np.arange(rows)
    table = linked(tables).all()
    row = table["row"].to_numpy()
    assert len(np.unique(row)) == len(row)
    component[row] = table["component"].to_numpy()
    return component


def rounds(caplog, tables, rows):
    with caplog.at_level(logging.INFO):
        component = found(tables, rows)
    return component, sum("components: round" in text for text in caplog.messages)


@pytest.mark.parametrize("shards", [1, 2, 7])
@pytest.mark.parametrize("edges", [0, 1, 40, 90, 200, 600])
def test_random_graphs(edges, shards):
    """Of pairs that may be there twice, or turned."""
    one, other = np.random.default_rng(edges).integers(0, 200, (2, edges))
    one, other = one[one != other], other[one != other]
    expected = components(Pairs(one, other, np.ones(len(one))), 200)
    np.testing.assert_array_equal(found(divide(pairs_of(one, other), shards), 200), expected)


@pytest.mark.parametrize("order", ["ascending", "random"])
def test_a_long_chain_takes_few_rounds(order, caplog):
    """Copies of copies of copies; the last round finds that all is done."""
    rows = 10_000
    row = np.arange(rows)
    if order == "random":
        row = np.random.default_rng(1).permutation(rows)
    component, count = rounds(caplog, divide(pairs_of(row[1:], row[:-1]), 16), rows)
    assert (component == 0).all()
    assert count <= 2 + np.log2(rows)


def test_one_shard_takes_no_rounds(caplog):
    component, count = rounds(caplog, divide(pairs_of([3, 4, 9], [4, 1, 0]), 1), 10)
    assert component.tolist() == [0, 1, 2, 1, 1, 5, 6, 7, 8, 0] and count == 0


def test_a_giant_star_and_a_clique(caplog):
    star = pairs_of(np.arange(500), np.full(500, 700))
    i, j = np.triu_indices(40, 1)
    clique = pairs_of(800 + i, 800 + j)
    component, count = rounds(caplog, divide(pa.concat_tables([star, clique]), 5), 900)
    assert (component[:500] == 0).all() and component[700] == 0
    assert (component[800:840] == 800).all() and count <= 4


def stars(function, one, other):
    moved = np.zeros(len(one), np.int64)
    table = function(pa.table({"one": one, "other": other, "moved": moved}))
    return sorted(zip(*table.to_pydict().values(), strict=True))


def test_large_stars_leave_smaller_neighbours_alone():
    """5 has 2, 7 and 9; 1 has 8."""
    assert stars(large_stars, [5, 5, 5, 1], [7, 2, 9, 8]) == [(7, 2, 1), (8, 1, 0), (9, 2, 1)]


def test_small_stars_join_them():
    """5 has 2, 4 and 1; 8 has 3."""
    expected = [(2, 1, 1), (4, 1, 1), (5, 1, 1), (8, 3, 0)]
    assert stars(small_stars, [5, 5, 5, 8], [2, 4, 1, 3]) == expected


def test_least_of_each():
    group, value = np.asarray([4, 1, 4, 1, 9]), np.asarray([5, 3, 2, 8, 6])
    assert least_of_each(group, value).tolist() == [2, 3, 2, 3, 6]
    assert least_of_each(group[:0], value[:0]).tolist() == []
