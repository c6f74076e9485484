"""The attention module: three projections with one kernel, and a key bias that may be masked."""

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.models.attention import QueriesKeysValues
from dinojax.precision import POLICIES

X = np.random.default_rng(0).normal(size=(1, 2, 5, 8)).astype(np.float32)


def projected(mask_k_bias: bool):
    layer = QueriesKeysValues(2, True, mask_k_bias, 0.02, POLICIES["float32"])
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.asarray(X))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)
    return params, lambda p: jnp.stack(layer.apply({"params": p}, jnp.asarray(X)))


def expected(params, gain):
    bias = params["bias"] * np.reshape(gain, (3, 1, 1))
    product = np.einsum("gbni,iqhd->qgbnhd", X, params["kernel"])
    return product + np.asarray(bias)[:, None, None, None]


def test_q_k_and_v_are_parts_of_one_projection():
    params, apply = projected(mask_k_bias=False)
    assert {name: x.shape for name, x in params.items()} == {
        "kernel": (8, 3, 2, 4),
        "bias": (3, 2, 4),
    }
    np.testing.assert_allclose(apply(params), expected(params, (1, 1, 1)), rtol=1e-4, atol=1e-5)


def test_a_masked_key_bias_is_neither_added_nor_trained():
    params, apply = projected(mask_k_bias=True)
    np.testing.assert_allclose(apply(params), expected(params, (1, 0, 1)), rtol=1e-4, atol=1e-5)
    gradient = jax.grad(lambda p: apply(p).sum())(params)["bias"]
    np.testing.assert_allclose(gradient[0], X[..., 0].size, rtol=1e-6)
    np.testing.assert_array_equal(gradient[1], 0)
