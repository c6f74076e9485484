"""`Dense` with several output axes and a masked part of its bias."""

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.models.dense import Dense
from dinojax.precision import POLICIES

X = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)


def params_of(layer, rng=None):
    rng = rng or np.random.default_rng(1)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.asarray(X))["params"]
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)


def test_a_masked_bias_is_neither_added_nor_trained():
    """The key bias of DINOv3: the middle one of (q, k, v)."""
    layer = Dense((3, 2, 4), POLICIES["float32"], bias_gain=(1.0, 0.0, 1.0))
    params = params_of(layer)
    found = np.asarray(layer.apply({"params": params}, jnp.asarray(X)))
    assert found.shape == (2, 3, 2, 4)
    bias = np.array(params["bias"])
    bias[1] = 0
    expected = np.einsum("bi,iqhd->bqhd", X, params["kernel"]) + bias
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    gradient = jax.grad(lambda p: layer.apply({"params": p}, jnp.asarray(X)).sum())(params)["bias"]
    np.testing.assert_allclose(gradient[0], len(X))
    np.testing.assert_array_equal(gradient[1], 0)


def test_without_bias():
    layer = Dense((4,), POLICIES["float32"], use_bias=False)
    params = params_of(layer)
    assert set(params) == {"kernel"}
    found = layer.apply({"params": params}, jnp.asarray(X))
    np.testing.assert_allclose(found, X @ np.asarray(params["kernel"]), rtol=1e-4, atol=1e-5)
