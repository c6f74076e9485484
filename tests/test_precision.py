"""The dtype policies and `widen`, which no 16-bit value escapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.precision import (
    POLICIES,
    get_precision,
    host_unit_rows,
    round_randomly,
    unit_rows,
    widen,
)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_widen_lifts_16_bits_exactly(dtype):
    x = jnp.asarray([1.0, 1.0078125, -3.0], dtype)
    assert widen(x).dtype == jnp.float32
    np.testing.assert_array_equal(widen(x), np.asarray(x, np.float32))


def test_widen_leaves_wide_floats_alone():
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            x = jnp.asarray([1 / 3], dtype)
            assert widen(x).dtype == dtype
            np.testing.assert_array_equal(widen(x), x)


@pytest.mark.parametrize("policy", ["float32", "float64", "bfloat16", "reference"])
def test_float32_products_are_exact_where_the_policy_computes_in_float32(policy):
    x = jnp.ones((2, 2))
    with jax.default_matmul_precision("default"), get_precision(policy).exact_products():
        (product,) = jax.make_jaxpr(jnp.matmul)(x, x).eqns
    exact = product.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
    assert exact == policy.startswith("float")


def test_parameters_are_never_16_bit():
    for policy in POLICIES.values():
        assert jnp.finfo(policy.param).bits >= 32


def test_policies():
    bits = {
        name: tuple(jnp.finfo(dtype).bits for dtype in (p.param, p.compute, p.rope))
        for name, p in POLICIES.items()
    }
    assert bits == {
        "bfloat16": (32, 16, 32),
        "float32": (32, 32, 32),
        "float64": (64, 64, 64),
        "reference": (32, 16, 16),
    }
    assert get_precision("float64") is POLICIES["float64"]


def test_unknown_policy_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"precision='fp16' is not a policy; use one of .*float32"):
        get_precision("fp16")


def test_unit_rows_survive_zero_rows():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    value, grad = jax.value_and_grad(lambda x: unit_rows(x).sum())(x)
    np.testing.assert_allclose(value, 1.4, rtol=1e-6)
    # Below epsilon the function is x / epsilon, as in torch.nn.functional.normalize.
    np.testing.assert_allclose(grad, [[0.032, -0.024], [1e12, 1e12]], rtol=1e-5)


def test_unit_rows_on_the_host():
    rows = np.array([[[3.0, 4.0], [0.0, 0.0]]], np.float32)
    found = host_unit_rows(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[[0.6, 0.8], [0.0, 0.0]]], rtol=1e-6)
    np.testing.assert_allclose(found, unit_rows(jnp.asarray(rows)), rtol=1e-6)


def test_unit_rows_divide_by_epsilon_below_it():
    np.testing.assert_allclose(unit_rows(jnp.array([[1e-9, 0.0]]), 1e-8), [[0.1, 0.0]], rtol=1e-6)


def test_random_rounding_keeps_the_mean():
    """A third of the way from 1 to the next bfloat16, 1 + 1 / 128, of either sign."""
    x = jnp.full((100, 1000), 1 + 1 / 384)
    for sign in (1, -1):
        found = round_randomly(sign * x, jax.random.key(0))
        assert found.dtype == jnp.bfloat16
        values, counts = np.unique(found.astype(jnp.float32), return_counts=True)
        assert sorted(np.abs(values)) == [1, 1 + 1 / 128]
        assert counts[np.abs(values) > 1] / x.size == pytest.approx(1 / 3, abs=0.01)


def test_random_rounding_leaves_what_bfloat16_holds():
    exact = jnp.array([0.0, 1.0, -2.5, 2.0**-100, jnp.inf])
    found = round_randomly(exact, jax.random.key(0)).astype(exact.dtype)
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16).astype(exact.dtype))
