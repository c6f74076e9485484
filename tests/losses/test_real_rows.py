"""Rows that fill a batch of varying size up have no part in targets and centres."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.losses.centering import update_center
from dinojax.losses.chunked_sinkhorn import sinkhorn_center
from dinojax.losses.sinkhorn import sinkhorn_knopp

RNG = np.random.default_rng(0)
LOGITS = RNG.uniform(-1, 1, (4, 6, 10))
REAL = RNG.random((4, 6)) < 0.7
TEMPERATURE = 0.07


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("filling", [0.0, 50.0, -50.0])
def test_targets_are_those_of_the_real_rows_alone(filling):
    logits = np.where(REAL[..., None], LOGITS, filling * RNG.uniform(size=LOGITS.shape))
    found = jax.jit(sinkhorn_knopp)(jnp.asarray(logits), TEMPERATURE, real=jnp.asarray(REAL))
    alone = jax.jit(sinkhorn_knopp)(jnp.asarray(LOGITS[REAL]), TEMPERATURE)
    assert 0 < REAL.sum() < REAL.size and np.isfinite(found).all()
    np.testing.assert_allclose(np.asarray(found)[REAL], alone, rtol=1e-12)
    everything = jax.jit(sinkhorn_knopp)(jnp.asarray(logits), TEMPERATURE)
    assert np.abs(np.asarray(everything)[REAL] - alone).max() > 1e-3


@pytest.mark.parametrize("chunk", [None, 5])
def test_the_center_of_chunks_is_that_of_the_real_rows_alone(chunk):
    features, columns = RNG.normal(size=(4, 6, 3)), RNG.normal(size=(3, 10))
    center = jax.jit(partial(sinkhorn_center, chunk=chunk))
    found = center(jnp.asarray(features), columns, TEMPERATURE, real=jnp.asarray(REAL))
    alone = center(jnp.asarray(features[REAL][None]), columns, TEMPERATURE)
    np.testing.assert_allclose(found, alone, rtol=1e-10)


def test_the_moving_center_averages_the_real_rows():
    center = RNG.normal(size=10)
    found = update_center(jnp.asarray(center), jnp.asarray(LOGITS), real=jnp.asarray(REAL))
    np.testing.assert_allclose(found, 0.9 * center + 0.1 * LOGITS[REAL].mean(axis=0), rtol=1e-12)
