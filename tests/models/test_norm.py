"""Norms against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.models.norm import NORM_LAYERS
from dinojax.precision import POLICIES

RNG = np.random.default_rng(0)
# The first row is small enough for epsilon to matter.
X = RNG.normal(size=(4, 6)) * np.array([[3e-3], [1], [10], [1]]) + np.array([[0], [0], [50], [-3]])
SCALE, BIAS = RNG.normal(size=(2, 6))


def layer_norm(row: np.ndarray, epsilon: float) -> np.ndarray:
    """arXiv:1607.06450, Eq. 4, with the biased variance."""
    return (row - row.mean()) / np.sqrt(row.var() + epsilon) * SCALE + BIAS


def rms_norm(row: np.ndarray, epsilon: float) -> np.ndarray:
    """arXiv:1910.07467, Eq. 4."""
    return row / np.sqrt((row**2).mean() + epsilon) * SCALE


@pytest.mark.parametrize(
    ("name", "oracle", "epsilon"),
    [
        ("layernorm", layer_norm, 1e-6),
        ("layernormbf16", layer_norm, 1e-5),
        ("rmsnorm", rms_norm, 1e-5),
    ],
)
def test_equals_numpy(name, oracle, epsilon):
    expected = np.stack([oracle(row, epsilon) for row in X])
    with jax.enable_x64(True):
        layer = NORM_LAYERS[name](POLICIES["float64"])
        params = {"scale": jnp.asarray(SCALE), "bias": jnp.asarray(BIAS)}
        known = layer.init(jax.random.key(0), jnp.zeros((1, 6)))["params"]
        found = layer.apply({"params": {key: params[key] for key in known}}, jnp.asarray(X))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("name", NORM_LAYERS)
def test_statistics_are_float32_and_the_stream_keeps_its_dtype(name):
    """A bf16 mean of 4,096 ones would stop at 256 / 4096."""
    layer = NORM_LAYERS[name](POLICIES["bfloat16"])
    x = jnp.ones((1, 4096), jnp.bfloat16).at[0, 0].set(3.0)
    params = layer.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    found = layer.apply(params, x)
    wide = np.asarray(x[0], np.float64)
    centred = wide if name == "rmsnorm" else wide - wide.mean()
    assert found.dtype == jnp.bfloat16
    expected = centred / np.sqrt((centred**2).mean() + 1e-5)
    np.testing.assert_allclose(found[0].astype(jnp.float32), expected, rtol=1e-2, atol=1e-4)
