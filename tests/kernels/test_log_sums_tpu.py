"""Sums over tiles, interpreted, against those of logits that are all there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.kernels import log_sums_tpu
from dinojax.kernels.log_sums_tpu import column_log_sums, row_log_sums

F, TEMPERATURE = 6, 0.05
SIZES = [(1, 1000), (300, 600)]
"""Rows and columns: one tile each, and with the small tiles below two and three that are not full,
in two parts each."""
by_rows, by_columns = jax.jit(row_log_sums), jax.jit(column_log_sums)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(log_sums_tpu, "TILE", 256)
    monkeypatch.setattr(log_sums_tpu, "PART", 128)


def random(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_all_tiles_are_summed(rows, columns):
    x, w, center = random(rows, F, seed=0), random(F, columns, seed=1), random(columns, seed=2)
    offsets = np.where(np.arange(rows) % 3 == 1, np.inf, random(rows, seed=3))
    with jax.enable_x64(True):
        found = (
            by_rows(x, w, center, TEMPERATURE),
            by_columns(x, w, offsets, TEMPERATURE),
        )
        expected = (
            jax.nn.logsumexp((x @ w - center) / TEMPERATURE, axis=1),
            jax.nn.logsumexp(x @ w / TEMPERATURE - offsets[:, None], axis=0),
        )
    for ours, plain in zip(found, expected, strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-12)


def test_bf16_products_are_summed_in_float32():
    """Of numbers that bf16 holds: all that is lost are the last bits of float32."""
    x, w, center = random(40, F, seed=0), random(F, 300, seed=1), random(300, seed=2)
    x, w = (np.asarray(jnp.asarray(a, jnp.bfloat16)).astype(np.float64) for a in (x, w))
    narrow = [jnp.asarray(a, jnp.bfloat16) for a in (x, w)]
    found = by_rows(*narrow, jnp.asarray(center, jnp.float32), TEMPERATURE)
    scaled = (x @ w - center) / TEMPERATURE
    peak = scaled.max(axis=1, keepdims=True)
    expected = peak[:, 0] + np.log(np.exp(scaled - peak).sum(axis=1))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2 * np.spacing(np.float32(peak.max())))
