"""Sinkhorn-Knopp against alternating normalisations by logarithms, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import compile_on_eight, log_sum_exp

from dinojax.losses.sinkhorn import sinkhorn_knopp

R, K = 48, 96
NORMAL = np.random.default_rng(0).standard_normal((R, K)).astype(np.float32)
UNIFORM = np.random.default_rng(1).uniform(-1, 1, (R, K)).astype(np.float32)
SIGNS = np.sign(UNIFORM)
COSINES = np.clip(NORMAL / 3, -1, 1)

targets = jax.jit(sinkhorn_knopp, static_argnames="iterations")


def oracle(logits: np.ndarray, temperature: float, iterations: int = 3) -> np.ndarray:
    """SwAV, Eq. 3 and section 3.1: columns to R / K, then rows to 1, in turns."""
    log_q = logits.reshape(-1, logits.shape[-1]).astype(np.float64) / float(temperature)
    rows, prototypes = log_q.shape
    for _ in range(iterations):
        for k in range(prototypes):
            log_q[:, k] += np.log(rows / prototypes) - log_sum_exp(log_q[:, k])
        for r in range(rows):
            log_q[r] -= log_sum_exp(log_q[r])
    return np.exp(log_q).reshape(logits.shape)


def shifted(columns: float = 0, rows: float = 0, noise: float = 0.1) -> np.ndarray:
    """Noise; the fourth prototype, or the fourth row, lies apart from all others."""
    logits = noise * NORMAL
    logits[:, 3] += columns
    logits[3] += rows
    return logits


CASES = {
    "cosines": (COSINES, 0.04),
    "cosines, warm": (COSINES, 0.1),
    "cosines, cold": (COSINES, 0.004),
    "from -250 to 250": (UNIFORM, 0.004),
    "either -250 or 250": (SIGNS, 0.004),
    "from -750 to 750": (30 * UNIFORM, 0.04),
    "all rows alike": (np.broadcast_to(UNIFORM[:1], (R, K)), 0.004),
    "a prototype 300 below": (shifted(columns=-12), 0.04),
    "a prototype 300 above": (shifted(columns=12), 0.04),
    "a row 300 below": (shifted(rows=-12), 0.04),
    "a row 300 above": (shifted(rows=12), 0.04),
    "prototypes up to 1500 apart": (30 * UNIFORM[:1] + 0.1 * NORMAL, 0.04),
}


@pytest.mark.parametrize("case", CASES)
def test_float32_is_as_good_as_log_space(case):
    logits, temperature = CASES[case]
    found = targets(jnp.asarray(logits), temperature)
    expected = oracle(logits, np.float32(temperature))
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=0, atol=3e-6)


def test_rows_far_apart_keep_the_precision_of_float32():
    """Offsets of a row cancel, but not before they were rounded at their own size, 60 / 0.04."""
    logits = 30 * UNIFORM[:, :1] + 0.1 * NORMAL
    rounding = np.spacing(np.float32(60)) / 0.04
    found, expected = targets(jnp.asarray(logits), 0.04), oracle(logits, np.float32(0.04))
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding)


@pytest.mark.parametrize("iterations", [1, 3, 20])
@pytest.mark.parametrize("case", ["cosines, cold", "from -750 to 750", "a row 300 below"])
def test_float64_is_the_definition(case, iterations):
    logits, temperature = CASES[case]
    with jax.enable_x64(True):
        found = targets(jnp.asarray(logits, jnp.float64), temperature, iterations=iterations)
    assert found.dtype == np.float64
    expected = oracle(logits, temperature, iterations)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 576), (576, 8)], ids=["more prototypes", "more rows"])
def test_columns_balance_after_many_iterations(shape):
    """And the scales do not drift: 72^30 would overflow."""
    rows, prototypes = shape
    logits = jnp.asarray(COSINES.reshape(shape))
    few, many = (targets(logits, 0.1, iterations=n).sum(axis=0) for n in (3, 30))
    share = rows / prototypes
    assert np.abs(few - share).max() > 1e-2 * share
    np.testing.assert_allclose(many, share, rtol=1e-4)


def test_bf16_logits_lose_nothing_more():
    rounded = jnp.asarray(COSINES, jnp.bfloat16)
    found = targets(rounded, 0.04)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, targets(rounded.astype(jnp.float32), 0.04))


def test_order_of_rows_and_of_prototypes():
    rng = np.random.default_rng(2)
    rows, prototypes = rng.permutation(R), rng.permutation(K)
    found = targets(jnp.asarray(COSINES[rows][:, prototypes]), 0.04)
    expected = np.asarray(targets(jnp.asarray(COSINES), 0.04))[rows][:, prototypes]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_all_leading_axes_are_rows():
    found = targets(jnp.asarray(COSINES.reshape(2, 3, -1, K)), 0.04)
    expected = np.asarray(targets(jnp.asarray(COSINES), 0.04)).reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_a_bias_of_prototypes_changes_nothing():
    """The first normalisation removes it: no prototype can win by its offset alone."""
    with jax.enable_x64(True):
        logits = jnp.asarray(COSINES, jnp.float64)
        bias = jnp.asarray(5.0 * UNIFORM[0] + 2, jnp.float64)
        found, expected = targets(logits + bias, 0.04), targets(logits, 0.04)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_equal_logits_give_equal_targets():
    np.testing.assert_allclose(targets(jnp.full((R, K), 7.0), 0.04), 1 / K, rtol=1e-6)


def test_eight_devices_are_one_batch():
    logits = COSINES.reshape(2, -1, K)
    found, program = compile_on_eight(lambda z: sinkhorn_knopp(z, 0.04), logits, axis=1)
    expected = targets(jnp.asarray(logits), 0.04)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert "all-reduce" in program and "all-gather" not in program
    # Each device's rows by themselves: another problem.
    alone = targets(jnp.asarray(logits[:, :3]), 0.04)
    assert np.abs(np.asarray(alone) - expected[:, :3]).max() > 0.1
