"""Exact-count stochastic depth, row by row."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.models.block import LayerScale, add_residual, kept_count
from dinojax.precision import POLICIES

X = np.random.default_rng(0).normal(size=(2, 6, 3, 4)).astype(np.float32)
KEPT = np.array([[4, 0, 3], [1, 2, 5]])


@pytest.mark.parametrize(
    ("rows", "rate", "kept"),
    # The first three are published (spec of the reference: recipes of ImageNet-1k and 7B).
    [(128, 0.3, 89), (128, 0.4, 76), (32, 0.4, 19), (8, 0.0, 8), (2, 0.9, 1), (1, 0.999, 1)],
)
def test_kept_count(rows, rate, kept):
    assert kept_count(rows, rate) == kept


def test_all_rows():
    found = add_residual(jnp.asarray(X), jnp.sin, None)
    np.testing.assert_allclose(found, X + np.sin(X), rtol=1e-5, atol=1e-6)


def test_kept_rows_are_scaled_and_others_pass():
    """DINOv2's factor b / m keeps the expectation over the choice of rows."""
    found = np.asarray(add_residual(jnp.asarray(X), jnp.sin, jnp.asarray(KEPT)))
    for group, row in np.ndindex(2, 6):
        update = 6 / 3 * np.sin(X[group, row]) if row in KEPT[group] else 0
        np.testing.assert_allclose(found[group, row], X[group, row] + update, rtol=1e-5, atol=1e-6)


def test_the_factor_is_not_rounded():
    """In bfloat16 32 / 19 would be 1.6875, 0.2 % more for every update of every branch."""
    update = jnp.asarray(np.random.default_rng(1).normal(size=(1, 19, 3, 4)), jnp.bfloat16)
    found = add_residual(
        jnp.zeros((1, 32, 3, 4), jnp.bfloat16), lambda t: update, jnp.arange(19)[None]
    )
    expected = (update.astype(jnp.float32) * 32 / 19).astype(jnp.bfloat16)
    np.testing.assert_array_equal(found[:, :19], expected)


def test_the_branch_sees_kept_rows_only():
    seen = []

    def branch(x):
        seen.append(np.asarray(x))
        return x

    add_residual(jnp.asarray(X), branch, jnp.asarray(KEPT))
    np.testing.assert_array_equal(seen[0], np.stack([X[g, KEPT[g]] for g in range(2)]))


def test_dropped_rows_have_the_identitys_gradient():
    def loss(x):
        return add_residual(x, lambda t: 3 * t, jnp.asarray(KEPT)).sum()

    gradient = np.asarray(jax.grad(loss)(jnp.asarray(X)))
    for group, row in np.ndindex(2, 6):
        np.testing.assert_allclose(gradient[group, row], 7.0 if row in KEPT[group] else 1.0)


def test_no_rows_are_masked_in_either_direction():
    """Nor summed as if one might come twice: all indices are of a permutation."""

    def loss(x, kept):
        return add_residual(x, jnp.sin, kept).sum()

    text = jax.jit(jax.grad(loss)).lower(jnp.asarray(X), jnp.asarray(KEPT)).as_text()
    scatters = re.findall(r'"stablehlo.scatter"[^\n]*', text)
    assert scatters and all("unique_indices = true" in scatter for scatter in scatters)
    assert not re.search(r"stablehlo.select [^\n]*xf32>", text)


def test_the_stream_keeps_its_dtype():
    x = jnp.asarray(X, jnp.bfloat16)
    assert add_residual(x, lambda t: t, jnp.asarray(KEPT)).dtype == jnp.bfloat16
    layer = LayerScale(0.5, POLICIES["bfloat16"])
    params = layer.init(jax.random.key(0), x)
    assert params["params"]["gamma"].dtype == jnp.float32
    np.testing.assert_array_equal(layer.apply(params, x), x / 2)
