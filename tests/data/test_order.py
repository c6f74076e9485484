"""Which record comes when: pinned, exact in every part, the same whoever asks for which slots."""

from collections import Counter

import numpy as np
import pytest

from dinojax.data.order import Order, record_indices

MIXTURE = Order(
    sizes=(50, 400, 150),
    global_batch=32,
    seed=3,
    weights=(0.0, 0.75, 0.25),
    homogeneous_part=0,
    homogeneous_share=0.3,
)
"""A part of homogeneous steps alone and two parts of mixed steps."""
BOTH = Order((60, 200), 32, 0, weights=(0.5, 0.5), homogeneous_part=0, homogeneous_share=0.1)
"""A part of both kinds of steps."""

either = pytest.mark.parametrize("order", [MIXTURE, BOTH], ids=["apart", "both"])


def steps(order, count, start=0):
    """The indices of whole steps. (Grain shuffles parts below 65,536 records slowly.)"""
    return [order.indices(step, range(order.global_batch)) for step in range(start, start + count)]


def parts_of(order, index):
    return np.searchsorted(np.cumsum(order.sizes), index, side="right")


def test_order_is_pinned():
    """A resumed run relies on these numbers; if Grain changes them, that is a breaking change."""
    assert record_indices(range(20), 10, seed=0).tolist() == [
        1,
        2,
        4,
        5,
        9,
        7,
        8,
        6,
        0,
        3,
        9,
        6,
        1,
        8,
        2,
        0,
        3,
        5,
        4,
        7,
    ]
    assert record_indices([10**12], 1_281_167, seed=7).tolist() == [187243]


def test_every_epoch_is_another_permutation():
    epochs = record_indices(range(5 * 101), 101, seed=0).reshape(5, 101)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(101), (5, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 5
    correlation = np.corrcoef(np.vstack([epochs, np.arange(101)])) - np.eye(6)
    assert np.abs(correlation).max() < 0.35  # 3.5 sigma of independent orders


def test_seeds_do_not_share_orders():
    """Epoch 1 of a seed must not be epoch 0 of the next."""
    epochs = {
        tuple(epoch)
        for seed in range(4)
        for epoch in record_indices(range(4 * 50), 50, seed).reshape(4, 50)
    }
    assert len(epochs) == 16


def test_a_single_part_is_the_plain_order():
    """As it was before there were mixtures: runs resume across the change."""
    order = Order((11,), global_batch=8, seed=3)
    np.testing.assert_array_equal(
        np.concatenate(steps(order, 5)), record_indices(range(40), 11, seed=3)
    )
    assert order.counts(5) == (40,)


def test_mixture_is_pinned():
    assert [MIXTURE.indices(10**7 + i, range(6)).tolist() for i in range(3)] == [
        [179, 215, 518, 157, 95, 67],
        [14, 33, 39, 11, 29, 13],
        [420, 360, 83, 532, 520, 432],
    ]
    assert MIXTURE.counts(10**7) == (96_000_000, 168_000_000, 56_000_000)


@either
def test_every_record_once_per_pass_of_its_part(order):
    """The draws from a part, in order of step and slot, are its own epochs one after the other."""
    drawn = np.concatenate(steps(order, 60))
    parts, start = parts_of(order, drawn), 0
    for part, size in enumerate(order.sizes):
        own = drawn[parts == part] - start
        start += size
        passes = own[: len(own) // size * size].reshape(-1, size)
        assert len(passes) >= 2
        np.testing.assert_array_equal(np.sort(passes), np.tile(np.arange(size), (len(passes), 1)))
        assert len({tuple(epoch) for epoch in passes}) == len(passes)
        rest = own[passes.size :]
        assert len(set(rest)) == len(rest)


@either
def test_counts_before_a_step_need_no_replay(order):
    seen = Counter()
    for step, index in enumerate(steps(order, 20)):
        assert order.counts(step) == tuple(seen[part] for part in range(len(order.sizes)))
        seen.update(parts_of(order, index).tolist())


@either
def test_a_homogeneous_step_is_one_part_and_comes_once_per_block(order):
    counts = np.array([order.counts(step) for step in range(401)])
    drawn = np.diff(counts, axis=0)
    whole = np.flatnonzero(drawn[:, order.homogeneous_part] == order.global_batch)
    share = order.homogeneous_share
    assert len(whole) == round(400 * share)
    for block, step in enumerate(whole):
        assert np.ceil(block / share - 1e-9) <= step < np.ceil((block + 1) / share - 1e-9)
    idle = [not weight for weight in order.weights]
    assert not np.delete(drawn, whole, axis=0)[:, idle].any()
    for step in (whole[0], whole[-1]):
        (index,) = steps(order, 1, start=int(step))
        assert set(parts_of(order, index)) == {order.homogeneous_part}


def test_weights_hold_in_every_batch():
    """Not only on average: no batch of mixed steps is off by more than the ends of two strata."""
    order = Order((1000, 1000, 1000), 64, 0, weights=(0.5, 0.3, 0.2))
    drawn = np.diff([order.counts(step) for step in range(500)], axis=0)
    assert np.abs(drawn - 64 * np.array(order.weights)).max() < 4


@either
def test_slots_can_be_asked_for_in_any_cut(order):
    for step in (0, 5, 10**7 + 3, 10**12):
        whole = order.indices(step, range(32))
        cuts = [order.indices(step, range(i, i + 8)) for i in range(0, 32, 8)]
        np.testing.assert_array_equal(np.concatenate(cuts), whole)


def test_parts_of_one_size_have_orders_of_their_own():
    order = Order((50, 50), global_batch=100, seed=0, weights=(1.0, 1.0))
    (index,) = steps(order, 1)
    first, second = index[index < 50], index[index >= 50] - 50
    assert sorted(first) == sorted(second) and first.tolist() != second.tolist()


def test_part_of_a_record():
    parts = [range(0, 50), range(50, 450), range(450, 600)]
    for part in parts:
        assert MIXTURE.part_of(part[0]) == MIXTURE.part_of(part[-1]) == part


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": ()}, r"weights=\(1.0,\) must be one for each of the 0 parts"),
        ({"sizes": (3, 4)}, r"weights=\(1.0,\) must be one for each of the 2 parts; use \(1.0, 1"),
        ({"sizes": (0,)}, r"sizes=\(0,\): the source holds no records"),
        ({"global_batch": 0}, "global_batch=0 must be positive; use 1"),
        ({"seed": -1}, r"seed=-1 must lie in 0..2\*\*32 - 1; use 0"),
        ({"seed": 2**32}, "seed=4294967296 must lie in 0"),
        ({"sizes": (3, 4), "weights": (0.5, -0.5)}, r"weights \(0.5, -0.5\) must be finite, none"),
        ({"sizes": (3, 4), "weights": (0.5, 0.0)}, r"nothing would ever be drawn from part 1"),
        ({"homogeneous_share": 0.1}, "homogeneous_share=0.1 must .* use 0.1 and name the part"),
        ({"homogeneous_part": 0}, "homogeneous_share=0.0 must lie strictly between 0 and 1"),
        ({"homogeneous_part": 0, "homogeneous_share": 1.5}, "homogeneous_share=1.5 must lie"),
        ({"homogeneous_part": 0, "homogeneous_share": -0.1}, "homogeneous_share=-0.1 must lie"),
        ({"homogeneous_part": 1, "homogeneous_share": 0.1}, "homogeneous_part=1 must be one of"),
        (
            {"weights": (0.0,), "homogeneous_part": 0, "homogeneous_share": 0.1},
            "mixture: weights .* one above 0",
        ),
    ],
)
def test_impossible_orders(fields, message):
    with pytest.raises(ValueError, match=message):
        Order(**{"sizes": (11,), "global_batch": 8, "seed": 3, **fields})
