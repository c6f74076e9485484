"""BatchNorm and 1x1 convolution against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.dense_head import (
    HeadParams,
    Statistics,
    apply,
    apply_training,
    fold,
    init_head,
)

B, SIDE, D, K = 3, 2, 5, 4
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(0)
    params = HeadParams(*(jnp.asarray(rng.normal(size=s), jnp.float32) for s in (D, D, (D, K), K)))
    x = rng.normal(3, 2, (B, SIDE, SIDE, D)).astype(np.float32)
    return params, Statistics(jnp.zeros(D), jnp.ones(D)), x


train = jax.jit(apply_training, static_argnames="dropout")


def test_a_training_step(given):
    """Statistics of the valid images alone; the running variance is the unbiased one."""
    params, running, x = given
    x = x.copy()
    x[2] = np.nan  # not valid
    valid = jnp.array([True, True, False])
    found, after = train(params, running, x, valid=valid, key=KEY, dropout=0.0)
    rows = x[:2].reshape(-1, D).astype(np.float64)
    normed = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) * params.scale + params.shift
    expected = (normed @ params.weights + params.bias).reshape(2, SIDE, SIDE, K)
    np.testing.assert_allclose(found[:2], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after.mean, 0.1 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(after.variance, 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)


def test_folding(given):
    params, _, x = given
    statistics = Statistics(jnp.full(D, 2.0), jnp.full(D, 0.5))
    normed = (x - 2.0) / np.sqrt(0.5 + 1e-5) * params.scale + params.shift
    expected = normed @ params.weights + params.bias
    np.testing.assert_allclose(
        apply(fold(params, statistics), jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4
    )


def test_dropout_takes_whole_channels(given):
    """Of an image, at every place of it; what stays is scaled up."""
    params, running, _ = given
    ones = np.ones((64, SIDE, SIDE, D), np.float32)
    valid = jnp.ones(64, bool)
    _, after = train(params, running, ones, valid=valid, key=KEY, dropout=0.25)
    mean = 10 * np.asarray(after.mean)  # of a channel: its share of images over 3/4
    shares = mean * 0.75 * 64
    np.testing.assert_allclose(shares, np.round(shares), atol=1e-3)
    assert (np.abs(mean - 1) < 0.3).all() and np.ptp(mean) > 0


def test_first_weights():
    params, statistics = init_head(KEY, 64, 64)
    assert np.std(params.weights) == pytest.approx(0.01, rel=0.05)
    assert not params.bias.any() and (params.scale == 1).all() and (statistics.variance == 1).all()
