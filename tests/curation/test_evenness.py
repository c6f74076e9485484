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
