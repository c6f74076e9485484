"""Subsets, and a hold-out split that depends on ids alone."""

import pytest
from images import ArraySource

from dinojax.data.source import Source
from dinojax.data.subset import Subset, holdout


def ids(source: Source) -> set[str]:
    return {source.record_id(i) for i in range(len(source))}


def test_subset():
    source = Subset(ArraySource(10), [7, 2])
    assert isinstance(source, Source)
    assert len(source) == 2 and source.class_names == ["even", "odd"]
    assert [source[i].id for i in range(2)] == ["array/7", "array/2"]
    assert source.record_id(1) == "array/2" and source[0].label == 1
    with pytest.raises(IndexError, match=r"index=2 must lie in 0..1"):
        source[2]


def test_subset_refuses_indices_outside():
    with pytest.raises(ValueError, match=r"indices holds 10; all must lie in 0..9"):
        Subset(ArraySource(10), [1, 10])


def test_holdout_is_a_partition_of_about_the_fraction():
    train, held = holdout(ArraySource(2000), 0.2)
    assert ids(train) | ids(held) == ids(ArraySource(2000)) and not ids(train) & ids(held)
    assert 340 < len(held) < 460  # 400 +- 3.4 sigma


def test_holdout_depends_on_ids_not_on_order_or_neighbours():
    _, held = holdout(ArraySource(200), 0.2)
    _, shuffled = holdout(Subset(ArraySource(200), list(range(199, -1, -1))), 0.2)
    _, grown = holdout(ArraySource(300), 0.2)
    assert ids(shuffled) == ids(held) == ids(grown) & ids(ArraySource(200))


def test_holdout_seed_and_growing_fraction():
    _, held = holdout(ArraySource(200), 0.2)
    assert ids(holdout(ArraySource(200), 0.2, seed=1)[1]) != ids(held)
    assert ids(held) < ids(holdout(ArraySource(200), 0.4)[1])


def test_holdout_errors():
    with pytest.raises(
        ValueError, match=r"fraction=1.0 must lie strictly between 0 and 1; use 0.1"
    ):
        holdout(ArraySource(10), 1.0)
    with pytest.raises(ValueError, match=r"of 3 records leaves the held-out side empty; use"):
        holdout(ArraySource(3), 0.001)
    with pytest.raises(ValueError, match=r"of 3 records leaves the train side empty; use"):
        holdout(ArraySource(3), 0.999)
