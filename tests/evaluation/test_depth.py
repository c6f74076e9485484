"""Depth: bins, loss and errors on numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.depth import bin_depth, depth_errors, scale_invariant_loss


def test_bins():
    """Three bins at 1, 2 and 3 m; relu leaves the floor of negative outputs."""
    outputs = jnp.array([[-5.0, 0.9, -1.0], [0.0, 0.0, 0.0]])
    expected = (0.1 * 1 + 1.0 * 2 + 0.1 * 3) / 1.2, 2.0
    np.testing.assert_allclose(bin_depth(outputs, 1.0, 3.0), expected, rtol=1e-6)


def test_loss():
    """Predictions e and e^3 times too far, less the 1e-3 that is added to both."""
    true = jnp.array([1.0, 2.0, 0.0]) - 1e-3
    predicted = jnp.array([np.e, 2 * np.e**3, 7.0]) - 1e-3
    known = jnp.array([True, True, False])
    expected = np.sqrt(2.0 + 0.15 * 2.0**2)  # gaps 1 and 3: mean 2, unbiased variance 2
    assert float(scale_invariant_loss(predicted, true, known)) == pytest.approx(expected, rel=1e-5)
    scale = scale_invariant_loss(predicted, true, known, variance=False)
    assert float(scale) == pytest.approx(np.sqrt(0.15) * 2, rel=1e-5)


def test_the_loss_of_nothing_and_of_perfection_has_a_slope():
    loss = jax.jit(jax.value_and_grad(scale_invariant_loss))
    ones = jnp.ones(3)
    for known in (jnp.zeros(3, bool), jnp.ones(3, bool)):
        value, slope = loss(ones, ones, known)
        assert value == 0 and jnp.isfinite(slope).all()
    off = loss(1.1 * ones, ones, jnp.array([True, True, False]))[1]
    assert (off[:2] > 0).all() and off[2] == 0


def test_errors():
    """Ratios 1.2, 1.5 and 1.9; a pixel of unknown depth; an image without any known."""
    true = jnp.array([[[1.0, 2.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    predicted = jnp.array([[[1.2, 3.0], [1.9, 9.0]], [[1.0, 1.0], [1.0, 1.0]]])
    found = depth_errors(predicted, true, true > 0)
    assert float(found.rmse[0]) == pytest.approx(np.sqrt((0.04 + 1 + 0.81) / 3), rel=1e-5)
    assert float(found.abs_rel[0]) == pytest.approx((0.2 + 0.5 + 0.9) / 3, rel=1e-5)
    deltas = [float(value[0]) for value in found[2:]]
    assert deltas == pytest.approx([1 / 3, 2 / 3, 3 / 3])  # 1.25, 1.5625, 1.953
    assert all(np.isnan(value[1]) for value in found)
