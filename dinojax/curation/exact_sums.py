"""Sums that do not depend on the order: fixed-point numbers in three int32 digits of 15 bits.

Floating-point sums change with tiles, chunks and devices, and on a GPU from run to run, because a
scatter adds in any order. Integers do not. What is added is rounded to 2**-31 of the largest number
there is, finer than float32 is for most of them, and no sum loses anything after that.
"""

import jax
import jax.numpy as jnp

from dinojax.typing import Array, Float, Int

BITS = 15
ROWS = 2**BITS
"""Added at a time: more could overflow."""
_BASE = 2**BITS


def power_above(largest: Float[Array, ""]) -> Float[Array, ""]:
    """The smallest power of two above a number, which is not negative; 1 for 0."""
    _, exponent = jnp.frexp(largest)
    return jnp.ldexp(jnp.ones_like(largest), jnp.where(largest > 0, exponent, 0))


def digits_of(values: Float[Array, "r ..."], scale: Float[Array, "..."]) -> Int[Array, "3 r ..."]:
    """Of `values` below `scale`, a power of two: units of it, of 2**-15 and of 2**-30 of it."""
    # Both products and the difference are exact.
    wide = values / scale * _BASE
    middle = jnp.round(wide)
    low = jnp.round((wide - middle) * _BASE)
    digits = jnp.stack([jnp.zeros_like(middle), middle, low])
    return digits.astype(jnp.int32)


def carried(digits: Int[Array, "3 ..."]) -> Int[Array, "3 ..."]:
    """The same number with both lower digits in 0 .. 2**15 - 1."""
    top, middle, low = digits
    middle += low >> BITS
    return jnp.stack([top + (middle >> BITS), middle & (_BASE - 1), low & (_BASE - 1)])


def segment_digits(
    values: Float[Array, "r C"], scale: Float[Array, " C"], segment: Int[Array, " r"], count: int
) -> Int[Array, "3 K C"]:
    """Sums by segment of at most `ROWS` rows; a segment of `count` or above is left out."""
    if len(values) > ROWS:
        raise ValueError(f"{len(values)} rows at a time could overflow; give at most {ROWS}")
    sums = jax.vmap(lambda x: jax.ops.segment_sum(x, segment, count))(digits_of(values, scale))
    return carried(sums)


def to_float(digits: Int[Array, "3 K C"], scale: Float[Array, " C"]) -> Float[Array, "K C"]:
    """The sums, rounded once or twice to the dtype of `scale`."""
    top, middle, low = digits.astype(scale.dtype)
    # Upper digits first: those of a small negative number nearly cancel.
    return ((top * _BASE + middle) + low / _BASE) / _BASE * scale
