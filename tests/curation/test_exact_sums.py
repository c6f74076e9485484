"""Sums of fixed-point digits: right to the last digit, in any order, up to what int32 can hold."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.curation import exact_sums
from dinojax.curation.exact_sums import (
    ROWS,
    added,
    carried,
    power_above,
    to_float,
    zeros,
)

UNIT = 2.0**-30


def rounded(values, scale):
    """What the digits hold, in units of ``scale * 2**-30``, as integers of any size."""
    return np.rint(np.asarray(values, float) / np.asarray(scale, float) / UNIT).astype(object)


def whole(sums):
    top, middle, low = (np.asarray(digit).astype(object) for digit in sums)
    return (top * 2**15 + middle) * 2**15 + low


@partial(jax.jit, static_argnums=3)
def segment_sums(values, scale, segment, count):
    none = zeros((count, values.shape[1]))
    return carried(exact_sums.add_rows(none, values, scale, segment))


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1000, 4)).astype(np.float32) * np.float32([1, 1e-3, 50, 1e4])
    scale = np.asarray(jax.vmap(power_above)(jnp.abs(values).max(axis=0)))
    return values, jnp.asarray(scale), rng.integers(0, 9, 1000)


def test_powers():
    found = [float(power_above(jnp.asarray(x))) for x in (0.0, 0.3, 0.5, 1.0, 1.5, 1024.0)]
    assert found == [1, 0.5, 1, 2, 2, 2048]


def test_sums_are_those_of_integers(drawn):
    values, scale, segment = drawn
    sums = segment_sums(jnp.asarray(values), scale, jnp.asarray(segment), 8)  # 8 is left out
    expected = [rounded(values[segment == k], scale).sum(axis=0) for k in range(8)]
    np.testing.assert_array_equal(whole(sums), np.stack(expected))
    lower = np.stack(sums[1:])
    assert (lower >= 0).all() and (lower < 2**15).all()
    exact = np.stack([values[segment == k].astype(float).sum(axis=0) for k in range(8)])
    atol = np.asarray(scale) * 1e-6
    assert (np.abs(np.asarray(to_float(sums, scale)) - exact) < atol).all()


def test_order_and_parts_do_not_matter(drawn):
    values, scale, segment = map(jnp.asarray, drawn)
    once = segment_sums(values, scale, segment, 9)
    order = np.random.default_rng(1).permutation(len(values))
    halves = [segment_sums(values[at], scale, segment[at], 9) for at in np.split(order, 2)]
    jax.tree.map(np.testing.assert_array_equal, once, added(*halves))
    plain = jax.ops.segment_sum(values, segment, 9)
    other = jax.ops.segment_sum(values[order], segment[order], 9)
    assert not np.array_equal(plain, other)  # which floats do not


@pytest.mark.parametrize("sign", [1, -1])
def test_the_most_that_is_added_at_a_time_fits(sign):
    largest = np.nextafter(np.float32(1), np.float32(0)) * sign
    values = jnp.full((ROWS, 1), largest)
    sums = segment_sums(values, jnp.ones(1), jnp.zeros(ROWS, jnp.int32), 1)
    assert whole(sums)[0, 0] == ROWS * rounded(largest, 1)


def test_small_negative_sums_stay_small():
    sums = segment_sums(jnp.asarray([[-(2.0**-29)]]), jnp.ones(1), jnp.zeros(1, jnp.int32), 1)
    assert float(to_float(sums, jnp.ones(1))[0, 0]) == -(2.0**-29)
