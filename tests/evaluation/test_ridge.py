"""Ridge regression from sums against NumPy's least squares."""

import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.ridge import Moments, fit_ridge, moments

RNG = np.random.default_rng(0)
X, Y = RNG.normal(3, 2, (40, 3)).astype(np.float32), RNG.normal(size=(40, 2)).astype(np.float32)
WEIGHT = RNG.integers(0, 4, 40).astype(np.float32)


def of(x, y, weight) -> Moments:
    return moments(*(jnp.asarray(part) for part in (x, y, weight)))


def least_squares(penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """By stacking a row for each weight and penalty; the bias is a feature that costs nothing."""
    root = np.sqrt(WEIGHT.astype(float))[:, None]
    rows = np.concatenate([X, np.ones((40, 1))], 1) * root
    extra = np.eye(3, 4) * np.sqrt(penalty * WEIGHT.sum())
    targets = np.concatenate([Y * root, np.zeros((3, 2))])
    found, *_ = np.linalg.lstsq(np.concatenate([rows, extra]), targets, rcond=None)
    return found[:3], found[3]


@pytest.mark.parametrize("ridge", [1e-9, 0.3])
def test_is_least_squares(ridge):
    mean = (X * WEIGHT[:, None]).sum(0) / WEIGHT.sum()
    variance = (((X - mean) ** 2) * WEIGHT[:, None]).sum() / WEIGHT.sum() / 3
    head = fit_ridge(of(X, Y, WEIGHT), ridge)
    weights, bias = least_squares(ridge * float(variance))
    np.testing.assert_allclose(head.weights, weights, atol=1e-4)
    np.testing.assert_allclose(head.bias, bias, atol=1e-4)


def test_batches_add_up_and_weight_zero_is_not_there():
    spoilt = np.where(WEIGHT[:, None] > 0, X, np.nan).astype(np.float32)
    parts = of(spoilt[:15], Y[:15], WEIGHT[:15]).plus(of(spoilt[15:], Y[15:], WEIGHT[15:]))
    for part, whole in zip(parts, of(X, Y, WEIGHT), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-5)


def test_scale_and_shift_of_features_do_not_matter():
    plain, moved = (fit_ridge(of(x, Y, WEIGHT), 0.1) for x in (X, 8 * X + 5))
    np.testing.assert_allclose(
        X @ plain.weights + plain.bias, (8 * X + 5) @ moved.weights + moved.bias, atol=1e-4
    )


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no samples to fit"):
        fit_ridge(of(X, Y, 0 * WEIGHT), 0.1)
    with pytest.raises(ValueError, match=r"ridge=0.0 must be positive; use 1e-3"):
        fit_ridge(of(X, Y, WEIGHT), 0.0)


def test_constant_features_give_the_mean():
    head = fit_ridge(of(0 * X + 3, Y, WEIGHT), 1e-3)
    assert np.isfinite(head.weights).all()
    mean = (Y * WEIGHT[:, None]).sum(0) / WEIGHT.sum()
    np.testing.assert_allclose(np.full(3, 3) @ head.weights + head.bias, mean, atol=1e-4)
