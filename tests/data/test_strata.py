"""Choices by share: the counts are those of a replay, and never far from the shares."""

import math
from fractions import Fraction

import numpy as np
import pytest

from dinojax.data.strata import Strata

SHARES = [
    (1.0,),
    (1.0, 1.0),
    (0.1, 0.9),
    (0.35, 0.65),
    (0.3, 0.3, 0.3, 0.05, 0.05),
    (0.0, 3.0, 0.0, 1.0),
    (1_281_167.0, 14_197_122.0, 3.0),
    (1.0,) * 17,
    tuple(np.random.default_rng(0).random(11).round(3).tolist()),
]


@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_counts_are_those_of_a_replay_and_near_the_shares(shares):
    strata = Strata(shares, seed=3, name="test")
    exact = np.array(shares) / sum(shares)
    bound = 1 if len(shares) < 3 else 2 + math.log(len(shares))
    seen = [0] * len(shares)
    for position in range(1500):
        assert strata.counts(position) == tuple(seen)
        assert np.abs(seen - position * exact).max() < bound
        way, before = strata.at(position)
        assert before == seen[way]
        seen[way] += 1
    assert not any(np.array(seen)[np.array(shares) == 0])


def test_far_positions_are_exact():
    """Integers beyond float and int64: a replay of ten positions, a long way out."""
    strata = Strata((0.3, 0.3, 0.3, 0.05, 0.05), seed=0, name="far")
    start = 10**25 + 7
    counts = np.array(strata.counts(start), object)
    assert sum(counts) == start
    assert abs(counts[0] - Fraction(3, 10) * start) < 4
    for position in range(start, start + 10):
        way, before = strata.at(position)
        assert before == counts[way]
        counts[way] += 1
    assert strata.counts(start + 10) == tuple(counts)


@pytest.mark.parametrize("often", [0, 1])
def test_one_at_a_hashed_place_in_each_block(often):
    """Share 1/10 or all but 1/10: the rarer way comes once in ten, at any of the ten places."""
    shares = (0.1, 0.9) if often else (0.9, 0.1)
    strata = Strata(shares, seed=5, name="blocks")
    rare = [n for n in range(20_000) if strata.at(n)[0] != often]
    blocks, places = np.divmod(rare, 10)
    np.testing.assert_array_equal(blocks, np.arange(2000))
    expected, sigma = 200, math.sqrt(2000 * 0.1 * 0.9)
    assert np.abs(np.bincount(places, minlength=10) - expected).max() < 4 * sigma
    assert abs(np.corrcoef(places[1:], places[:-1])[0, 1]) < 4 / math.sqrt(2000)


def test_seed_and_name_keep_choices_apart():
    def ways(seed, name):
        strata = Strata((1.0, 1.0, 1.0), seed, name)
        return tuple(strata.at(n)[0] for n in range(60))

    assert ways(0, "a") == ways(0, "a")
    assert len({ways(seed, name) for seed in (0, 1) for name in ("a", "b")}) == 4


def test_order_is_pinned():
    """A resumed run relies on these numbers."""
    strata = Strata((0.3, 0.3, 0.3, 0.05, 0.05), seed=3, name="pinned")
    ways = "".join(str(strata.at(n)[0]) for n in range(40))
    assert ways == "3021201102102240120121202010410231021210"
    assert strata.counts(10**7) == (3_000_000, 3_000_000, 3_000_000, 500_000, 500_000)


@pytest.mark.parametrize("shares", [(), (0.0, 0.0), (1.0, -1.0), (math.inf,), (math.nan, 1.0)])
def test_impossible_shares(shares):
    with pytest.raises(ValueError, match=r"test: weights \(.* must be finite, none negative"):
        Strata(shares, seed=0, name="test")
