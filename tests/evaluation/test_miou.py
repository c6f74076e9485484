"""Intersection over union on counts done by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.miou import class_index, count, score


def test_score():
    """9 pixels: IoUs 3 / 5, 2 / 4 and 1 / 3; a class that is nowhere is not in the mean."""
    confusion = np.array([[3, 1, 0, 0], [1, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
    found = score(confusion, [2, 4, 5, 9])
    assert found.iou == {2: pytest.approx(3 / 5), 4: pytest.approx(2 / 5), 5: pytest.approx(1 / 2)}
    assert found.miou == pytest.approx((3 / 5 + 2 / 5 + 1 / 2) / 3)


def test_a_class_that_is_only_predicted_counts_as_zero():
    assert score(np.array([[4, 4], [0, 0]]), [0, 1]).iou == {0: 0.5, 1: 0.0}


def test_counting():
    """Of 6 pixels one is ignored."""
    labels, predicted = jnp.array([[0, 1, 1], [2, -1, 1]]), jnp.array([[0, 1, 2], [2, 2, 1]])
    assert count(predicted, labels, 3).tolist() == [[1, 0, 0], [0, 2, 1], [0, 0, 1]]


def test_class_numbers():
    """Neither between, below nor above the numbers that count."""
    found = class_index(np.array([0, 3, 4, 7, 255, -1]), np.array([3, 7]))
    assert found.tolist() == [-1, 0, -1, 1, -1, -1]
