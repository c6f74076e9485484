"""J and F of small masks, by hand."""

import numpy as np
import pytest

from dinojax.evaluation.video_scores import (
    boundary,
    boundary_accuracy,
    region_similarity,
    score_object,
)


def square(top: int, left: int, side: int = 4, px: int = 40) -> np.ndarray:
    mask = np.zeros((px, px), bool)
    mask[top : top + side, left : left + side] = True
    return mask


EMPTY = square(0, 0, side=0)


def test_regions():
    assert region_similarity(square(2, 2), square(2, 4)) == pytest.approx(8 / 24)
    assert region_similarity(EMPTY, EMPTY) == 1
    assert region_similarity(square(2, 2), EMPTY) == region_similarity(EMPTY, square(2, 2)) == 0


def test_the_boundary_of_a_square():
    """The pixels above and left of it, its own at the bottom and right, and the corner between."""
    edge = boundary(square(2, 3, side=3, px=8))
    expected = np.zeros((8, 8), bool)
    expected[1, 2:6] = expected[1:5, 2] = expected[4, 2:6] = expected[1:5, 5] = True
    np.testing.assert_array_equal(edge, expected)


def test_the_image_has_no_boundary():
    """A mask that leaves it ends there without an edge."""
    edge = boundary(square(5, 5, side=3, px=8))
    assert edge[4, 4:].all() and edge[4:, 4].all() and edge.sum() == 7
    assert not boundary(np.ones((8, 8), bool)).any()


def test_boundaries():
    """Within one pixel (0.008 of 56.6 px, rounded up) all of the square's edge is found."""
    true = square(10, 10, side=10)
    assert boundary_accuracy(true, true) == 1
    assert boundary_accuracy(square(11, 10, side=10), true) == 1
    assert boundary_accuracy(square(25, 25, side=10), true) == 0
    found = boundary_accuracy(square(10, 13, side=10), true)
    # Of 40 pixels, 9 of the upper and of the lower edge, and of a side the two next to these.
    assert found == pytest.approx(20 / 40)
    assert boundary_accuracy(EMPTY, EMPTY) == 1
    assert boundary_accuracy(EMPTY, true) == boundary_accuracy(true, EMPTY) == 0


def test_an_object_in_frames():
    """Object 2 among others: half of it in the first frame, all of it in the second."""
    true = [2 * square(8, 8).astype(int) + 5 * square(20, 20)] * 2
    found = [np.where(np.arange(40) < 10, true[0], 0), true[1]]
    scores = score_object(found, true, 2)
    assert scores.region == pytest.approx((0.5 + 1) / 2)
    assert 0.5 < scores.boundary < 1
    with pytest.raises(ValueError, match="no frames to score"):
        score_object([], [], 2)
