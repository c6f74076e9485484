"""Logistic regression against scikit-learn, over a grid of C."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from dinojax import mesh
from dinojax.evaluation.logistic import c_grid, fit_logistic, rank_by_logits

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(4, 8))
Y = RNG.integers(0, 4, 119)
X = CENTRES[Y] + 1.5 * RNG.normal(size=(119, 8)) + 0.7
CS = c_grid(-4.0, 4.0, 9)


def objective(weights, bias, c) -> float:
    logits = X @ weights + bias
    top = logits.max(1)
    losses = np.log(np.exp(logits - top[:, None]).sum(1)) + top - logits[np.arange(len(Y)), Y]
    return c * losses.sum() + (weights**2).sum() / 2


@pytest.fixture(scope="module")
def fit():
    """On eight devices, whose parts are filled up: 119 rows."""
    with jax.enable_x64(True), jax.set_mesh(mesh.make_mesh(2, 4)):
        return jax.tree.map(np.asarray, fit_logistic(X, Y, np.array(CS), num_classes=4))


@pytest.mark.parametrize("i", range(len(CS)))
def test_is_scikit_learns(fit, i):
    expected = LogisticRegression(C=CS[i], max_iter=1000, tol=1e-12).fit(X, Y)
    weights, bias = fit.weights[i], fit.bias[i]
    np.testing.assert_allclose(weights, expected.coef_.T, atol=1e-5)
    # A constant on all classes changes nothing, and nothing decides it.
    theirs = expected.intercept_ - expected.intercept_.mean()
    np.testing.assert_allclose(bias - bias.mean(), theirs, atol=1e-5)
    reached = objective(expected.coef_.T, expected.intercept_, CS[i])
    assert objective(weights, bias, CS[i]) <= reached * (1 + 1e-12)
    ranked = np.asarray(rank_by_logits(fit.weights[i : i + 1], fit.bias[i : i + 1], X, 1))
    assert (ranked[0, :, 0] == expected.predict(X)).mean() > 0.99


def test_each_stops_when_it_is_done(fit):
    assert (fit.iterations < 200).all() and len(set(fit.iterations.tolist())) > 3


def test_grid():
    assert c_grid(-6.0, 5.0, 45)[0] == pytest.approx(1e-6)
    assert c_grid(-6.0, 5.0, 45)[44] == pytest.approx(1e5) and len(c_grid(-6.0, 5.0, 45)) == 45


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"labels hold 0..3 and must lie in 0..2"):
        fit_logistic(X, Y, np.array([1.0]), num_classes=3)
    with pytest.raises(ValueError, match="must be positive"):
        fit_logistic(X, Y, np.array([0.0]), num_classes=4)
