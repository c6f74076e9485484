"""GELU against Python's error function, and its own gradient against autodiff."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.kernels.gelu import gelu

POINTS = np.linspace(-9, 9, 181)


def exact(x: float) -> float:
    return x * 0.5 * math.erfc(-x / math.sqrt(2))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equals_the_error_function(dtype):
    with jax.enable_x64(dtype == "float64"):
        found = gelu(jnp.asarray(POINTS, dtype))
        assert found.dtype == dtype
    error = np.abs(np.asarray(found, np.float64) - [exact(x) for x in POINTS])
    assert (error <= 2 * np.finfo(dtype).eps * np.abs(POINTS)).all(), error.max()


def test_bfloat16_is_rounded_once_in_both_directions():
    x = jnp.asarray(POINTS, jnp.bfloat16)
    wide = x.astype(jnp.float32)
    np.testing.assert_array_equal(gelu(x), gelu(wide).astype(jnp.bfloat16))
    slope, wide_slope = (jax.grad(lambda x: gelu(x).sum())(x) for x in (x, wide))
    assert slope.dtype == jnp.bfloat16
    np.testing.assert_array_equal(slope, wide_slope.astype(jnp.bfloat16))


def test_gradient_equals_autodiff():
    with jax.enable_x64(True):
        x = jnp.asarray(POINTS)
        weights = jnp.cos(jnp.arange(x.size))
        ours, plain = (
            jax.grad(lambda x, f=f: (f(x) * weights).sum())(x)
            for f in (gelu, lambda x: 0.5 * x * (1 + jax.lax.erf(x / math.sqrt(2))))
        )
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-15)


def test_only_the_input_is_kept_for_the_gradient():
    x = jnp.ones((4, 8), jnp.bfloat16)
    _, pull = jax.vjp(gelu, x)
    (kept,) = jax.tree.leaves(pull)
    assert (kept.shape, kept.dtype) == (x.shape, x.dtype)
