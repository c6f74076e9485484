"""The closed-form linear classifier."""

import numpy as np
import pytest

from dinojax.evaluation.ridge_probe import ROWS, ridge_accuracy

RNG = np.random.default_rng(0)


def clusters(count: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(1).normal(size=(4, 6))
    labels = RNG.integers(0, 4, count).astype(np.int32)
    noise = spread * RNG.normal(size=(count, 6))
    return (centres[labels] + noise + 2).astype(np.float32), labels


@pytest.mark.parametrize("count", [60, ROWS + 60])
def test_numpy_oracle(count):
    """Normal equations of centred features in float64; in several parts of the bank as in one."""
    bank, labels = clusters(count, 1.0)
    queries, truth = clusters(200, 1.0)
    x, y = bank.astype(float), np.eye(4)[labels]
    centred = x - x.mean(0)
    penalty = 0.1 * count * x.var(axis=0).mean()
    weights = np.linalg.solve(
        centred.T @ centred + penalty * np.eye(6), centred.T @ (y - y.mean(0))
    )
    predicted = ((queries - x.mean(0)) @ weights + y.mean(0)).argmax(axis=1)
    found = ridge_accuracy(bank, labels, queries, truth, num_classes=4, ridge=0.1)
    assert found == pytest.approx((predicted == truth).mean(), abs=1e-9)
    assert 0.4 < found < 1


def test_classes_far_apart_are_told_apart():
    found = ridge_accuracy(*clusters(80, 0.01), *clusters(40, 0.01), num_classes=4, ridge=1e-3)
    assert found == 1


def test_features_that_are_all_alike_give_the_most_frequent_class():
    bank, labels = np.full((10, 3), 0.7, np.float32), np.int32([1] * 6 + [0] * 4)
    queries, truth = np.full((4, 3), 0.7, np.float32), np.int32([1, 0, 1, 1])
    assert ridge_accuracy(bank, labels, queries, truth, num_classes=2, ridge=1e-3) == 0.75


def test_an_empty_bank_is_refused():
    none, labels = np.zeros((0, 3), np.float32), np.zeros(0, np.int32)
    with pytest.raises(ValueError, match="bank is empty"):
        ridge_accuracy(none, labels, none, labels, num_classes=2, ridge=1e-3)
