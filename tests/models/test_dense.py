"""`Dense` with and without a bias."""

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


def test_without_bias():
    layer = Dense((4,), POLICIES["float32"], use_bias=False)
    params = params_of(layer)
    assert set(params) == {"kernel"}
    found = layer.apply({"params": params}, jnp.asarray(X))
    np.testing.assert_allclose(found, X @ np.asarray(params["kernel"]), rtol=1e-4, atol=1e-5)
