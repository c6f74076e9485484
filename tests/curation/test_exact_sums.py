"""Sums of fixed-point digits: right to the last digit, in any order, up to what int32 can hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.curation.exact_sums import (
    ROWS,
    carried,
    digits_of,
    power_above,
    segment_digits,
    to_float,
)

UNIT = 2.0**-30


def rounded(values, scale):
    """What the digits hold, in units of ``scale * 2**-30``, as integers of any size."""
    return np.rint(np.asarray(values, float) / np.asarray(scale, float) / UNIT).astype(object)


def whole(digits):
    top, middle, low = np.asarray(digits).astype(object)
    return (top * 2**15 + middle) * 2**15 + low


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
    digits = segment_digits(jnp.asarray(values), scale, jnp.asarray(segment), 8)  # 8 is left out
    expected = [rounded(values[segment == k], scale).sum(axis=0) for k in range(8)]
    np.testing.assert_array_equal(whole(digits), np.stack(expected))
    assert (np.asarray(digits)[1:] >= 0).all() and (np.asarray(digits)[1:] < 2**15).all()
    exact = np.stack([values[segment == k].astype(float).sum(axis=0) for k in range(8)])
    atol = np.asarray(scale) * 1e-6
    assert (np.abs(np.asarray(to_float(digits, scale)) - exact) < atol).all()


def test_order_and_parts_do_not_matter(drawn):
    values, scale, segment = map(jnp.asarray, drawn)
    once = segment_digits(values, scale, segment, 9)
    order = np.random.default_rng(1).permutation(len(values))
    halves = [segment_digits(values[at], scale, segment[at], 9) for at in np.split(order, 2)]
    np.testing.assert_array_equal(once, carried(halves[0] + halves[1]))
    plain = jax.ops.segment_sum(values, segment, 9)
    other = jax.ops.segment_sum(values[order], segment[order], 9)
    assert not np.array_equal(plain, other)  # which floats do not


@pytest.mark.parametrize("sign", [1, -1])
def test_the_most_that_is_added_at_a_time_fits(sign):
    largest = np.nextafter(np.float32(1), np.float32(0)) * sign
    values = jnp.full((ROWS, 1), largest)
    digits = segment_digits(values, jnp.ones(1), jnp.zeros(ROWS, jnp.int32), 1)
    assert whole(digits)[0, 0] == ROWS * rounded(largest, 1)
    with pytest.raises(ValueError, match="32769 rows at a time could overflow"):
        segment_digits(jnp.ones((ROWS + 1, 1)), jnp.ones(1), jnp.zeros(ROWS + 1, jnp.int32), 1)


def test_small_negative_sums_stay_small():
    values = jnp.asarray([[-(2.0**-29)]])
    digits = carried(digits_of(values, jnp.ones(1)))
    assert float(to_float(digits, jnp.ones(1))[0, 0]) == -(2.0**-29)
