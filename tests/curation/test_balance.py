"""Quotas against brute force, and samples that are exact, balanced and a function of ids."""

import numpy as np
import pytest
from trees import balanced_sample

from dinojax.curation.balance import cuts, divide, flat_sizes
from dinojax.curation.draws import draw_keys, first_of_each, rank_within

RNG = np.random.default_rng(0)


def brute_cut(capacity, quota):
    if capacity.sum() <= quota:
        return capacity.max(initial=0)
    cut = 0
    while np.minimum(cut + 1, capacity).sum() <= quota:
        cut += 1
    return cut


def families(parents=20_000, seed=0):
    """Children of many parents, some without any, some with equal or no capacity."""
    rng = np.random.default_rng(seed)
    parent = rng.integers(0, parents, 4 * parents)
    capacity = rng.integers(0, 12, len(parent)) * rng.choice([1, 1, 7], len(parent))
    quota = rng.integers(0, 60, parents)
    return capacity, parent, quota


def test_cuts_are_those_of_brute_force():
    capacity, parent, quota = families()
    found = cuts(capacity, parent, quota)
    order = np.argsort(parent, kind="stable")
    groups = np.split(capacity[order], np.cumsum(np.bincount(parent, minlength=len(quota)))[:-1])
    expected = [brute_cut(group, total) for group, total in zip(groups, quota, strict=True)]
    np.testing.assert_array_equal(found, expected)


def test_quotas_are_exact_within_capacity_and_even():
    capacity, parent, quota = families()
    share = divide(capacity, parent, quota, RNG.permutation(len(capacity)))
    whole = np.bincount(parent, capacity, len(quota)).astype(int)
    np.testing.assert_array_equal(np.bincount(parent, share, len(quota)), np.minimum(quota, whole))
    assert (share <= capacity).all() and (share >= 0).all()
    unused = share < capacity
    most, least = np.full(len(quota), -1), np.full(len(quota), 10**9)
    np.maximum.at(most, parent, share)
    np.minimum.at(least, parent[unused], share[unused])
    assert (most <= least + 1).all()  # none got more than one who could have had more


def test_the_remainder_goes_to_the_smallest_keys():
    share = divide(
        np.asarray([9, 9, 1, 9]), np.zeros(4, int), np.asarray([18]), np.asarray([3, 1, 2, 0])
    )
    assert share.tolist() == [5, 6, 1, 6]


def tree(rows=5000, seed=0):
    """Three levels of uneven clusters, some of them empty."""
    rng = np.random.default_rng(seed)
    first = np.minimum(rng.geometric(0.02, rows), 299)
    return [first, rng.integers(0, 40, 300), rng.integers(0, 6, 40)]


def test_flat_sizes():
    parents = tree()
    sizes = flat_sizes(parents)
    assert [len(one) for one in sizes] == [300, 40, 6]
    top = parents[2][parents[1][parents[0]]]
    np.testing.assert_array_equal(sizes[2], np.bincount(top))
    np.testing.assert_array_equal(sizes[0], np.bincount(parents[0], minlength=300))


@pytest.mark.parametrize("multiplicity", [1, 3])
@pytest.mark.parametrize("target", [0, 1, 777, 5000, 14_000, 20_000])
def test_totals_are_exact(target, multiplicity):
    ids = RNG.permutation(5000)
    times = balanced_sample(tree(), ids, target, seed=0, multiplicity=multiplicity)
    assert times.sum() == min(target, 5000 * multiplicity)
    assert times.min() >= 0 and times.max() <= multiplicity


def test_siblings_get_equally_much_and_small_ones_all():
    parents = [np.repeat(np.arange(4), [1000, 30, 5, 600]), np.asarray([0, 0, 1, 1])]
    times = balanced_sample(parents, np.arange(1635), 200, seed=0)
    assert np.bincount(parents[0], times).tolist() == [70, 30, 5, 95]


def test_copies_of_a_cluster_differ_by_at_most_one():
    parents = [np.repeat(np.arange(2), [10, 100])]
    times = balanced_sample(parents, np.arange(110), 75, seed=0, multiplicity=4)
    assert times[:10].sum() in (37, 38) and set(times[:10]) == {3, 4} and times[10:].max() == 1


def test_the_order_of_rows_does_not_matter_and_the_seed_does():
    parents, ids = tree(), 10**12 + 7 * RNG.permutation(5000)
    once = balanced_sample(parents, ids, 900, seed=0)
    order = RNG.permutation(5000)
    again = balanced_sample([parents[0][order], *parents[1:]], ids[order], 900, seed=0)
    np.testing.assert_array_equal(once[order], again)
    other = balanced_sample(parents, ids, 900, seed=1)
    assert (other != once).sum() > 300


def test_nearest_rows():
    parents = [np.zeros(6, int)]
    distance = np.float32([3, 1, 2, 1, 9, 0])
    times = balanced_sample(parents, np.arange(6), 3, seed=0, distance=distance)
    assert times.tolist() == [0, 1, 0, 1, 0, 1]


def test_draws_are_uniform_and_different():
    keys = draw_keys(np.arange(100_000), 0, "rows")
    assert len(np.unique(keys)) == 100_000
    assert abs(keys.astype(float).mean() / 2**64 - 0.5) < 0.005
    for bit in range(64):  # each is a fair coin, and neighbours agree half of the time
        ones = (keys >> np.uint64(bit)) & np.uint64(1)
        assert abs(ones.mean() - 0.5) < 0.01 and abs((ones[1:] == ones[:-1]).mean() - 0.5) < 0.01
    assert (keys != draw_keys(np.arange(100_000), 0, "other")).all()
    assert (keys != draw_keys(np.arange(100_000), 1, "rows")).all()


def test_ranks():
    group, key = np.asarray([2, 0, 2, 2, 0]), np.asarray([5, 1, 4, 5, 0])
    assert rank_within(group, key).tolist() == [1, 1, 0, 2, 0]
    assert first_of_each(group, key, 1).tolist() == [2, 4]
    assert rank_within(group[:0], key[:0]).tolist() == []
