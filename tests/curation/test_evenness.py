"""Evenness of counts, against cases that can be computed by hand."""

import numpy as np
import pytest

from dinojax.curation.evenness import evenness


def test_by_hand():
    assert evenness(np.asarray([5, 5, 0, 5, 5])) == pytest.approx((4, 4, 0))
    half = evenness(np.asarray([2, 1, 1]))
    entropy = 1.5 * np.log(2)
    assert half == pytest.approx((3, np.exp(entropy), np.log(3) - entropy))
    assert evenness(np.asarray([7])) == pytest.approx((1, 1, 0))


def test_groups_of_which_nothing_is_left():
    """Two of ten, evenly: far from even."""
    assert evenness(np.asarray([3, 3] + 8 * [0]), 10) == pytest.approx((2, 2, np.log(5)))
