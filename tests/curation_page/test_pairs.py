"""Pairs near a threshold."""

import numpy as np

from dinojax.curation_page.pairs import Pair, nearest_pairs
from dinojax.evaluation.nearest import Neighbours


def neighbours(cosines):
    """All of all, the nearest first."""
    order = np.argsort(-cosines, axis=1, kind="stable")
    return Neighbours(np.take_along_axis(cosines, order, 1), order)


def test_both_sides():
    cosines = np.eye(6, dtype=np.float32)
    for a, b, value in ((0, 1, 0.9), (2, 3, 0.7), (4, 5, 0.5), (0, 2, 0.2)):
        cosines[a, b] = cosines[b, a] = value
    above, below = nearest_pairs(neighbours(cosines), np.arange(6), np.arange(6), 0.6, 2)
    assert [(p.one, p.other) for p in above] == [(2, 3), (0, 1)]
    assert [(p.one, p.other) for p in below] == [(4, 5), (0, 2)]
    assert np.allclose([p.cosine for p in above + below], [0.7, 0.9, 0.5, 0.2])
    edge = float(np.float32(0.7))
    equal, _ = nearest_pairs(neighbours(cosines), np.arange(6), np.arange(6), edge, 9)
    assert [(p.one, p.other) for p in equal] == [(0, 1)]  # joined are those above it


def test_a_record_comes_once_and_what_is_joined_is_not_almost_joined():
    cosines = np.full((4, 4), 0.5, np.float32) - 0.1 * np.eye(4, dtype=np.float32)
    cosines[0, 1:] = cosines[1:, 0] = (0.55, 0.54, 0.53)
    _, below = nearest_pairs(neighbours(cosines), np.arange(4), np.arange(4), 0.6, 9)
    assert [(p.one, p.other) for p in below] == [(0, 1), (2, 3)]
    _, below = nearest_pairs(neighbours(cosines), np.arange(4), np.array([0, 0, 2, 2]), 0.6, 9)
    assert [(p.one, p.other) for p in below] == [(0, 2), (1, 3)]


def test_queries_and_banks_of_other_numbers():
    """Such as records against references, numbered after them."""
    found = Neighbours(np.array([[0.7], [-0.2]], np.float32), np.array([[5], [4]]))
    joined = np.array([9, 9, 0, 1, 9, 9])
    above, below = nearest_pairs(found, np.array([0, 3]), joined, 0.6, 3)
    assert [p[:2] for p in above] == [(0, 5)] and below == [Pair(3, 4, float(np.float32(-0.2)))]
