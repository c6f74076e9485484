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


def test_holdout_of_a_growing_fraction():
    _, held = holdout(ArraySource(200), 0.2)
    assert ids(held) < ids(holdout(ArraySource(200), 0.4)[1])


@pytest.mark.parametrize(("count", "fraction"), [(3, 0.001), (3, 0.999), (24, 0.0001), (24, 1.0)])
def test_a_share_that_leaves_a_side_empty(count, fraction):
    """What is said to work does, under the key that it is said of."""
    side = "held-out" if fraction < 0.5 else "train"
    with pytest.raises(ValueError, match=f"of {count} records leaves the {side} side") as refused:
        holdout(ArraySource(count), fraction, "data.holdout")
    assert f"data.holdout={fraction} of" in str(refused.value)
    working = str(refused.value).partition("; use data.holdout=")[2]
    assert all(map(len, holdout(ArraySource(count), float(working))))
    if count == 24:
        assert working == "0.1"


def test_too_few_records_to_hold_any_out():
    with pytest.raises(ValueError, match="of 1 records leaves the held-out side empty; give more"):
        holdout(ArraySource(1), 0.1, "data.holdout")
    with pytest.raises(ValueError, match=r"holdout=0.001 of 3 records .*; give more records"):
        holdout(ArraySource(3), 0.001)
