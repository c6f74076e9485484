"""Sums that do not depend on the order: fixed-point numbers in three int32 digits of 15 bits.

Floating-point sums change with tiles, chunks and devices, and on a GPU from run to run, because a
scatter adds in any order. Integers do not. What is added is rounded to 2**-31 of the largest number
there is, finer than float32 is for most of them, and no sum loses anything after that.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dinojax.typing import Array, Float, Int

BITS = 15
ROWS = 2**BITS
"""So many may be added to sums that are `carried` before they must be carried again."""
_BASE = 2**BITS


class Digits(NamedTuple):
    """Numbers in units of their scale, of 2**-15 and of 2**-30 of it."""

    top: Int[Array, "..."]
    middle: Int[Array, "..."]
    low: Int[Array, "..."]


def zeros(shape: Sequence[int]) -> Digits:
    return Digits(*(jnp.zeros(shape, jnp.int32) for _ in Digits._fields))


def add_rows(
    sums: Digits, values: Float[Array, "r C"], scale: Float[Array, " C"], segment: Int[Array, " r"]
) -> Digits:
    """`sums` ``[K, C]`` with each row added to its segment; to none, if that is K or above.

    `scale` holds powers of two above all `values`.
    """
    # Both products and the difference are exact.
    wide = values / scale * _BASE
    middle = jnp.round(wide)
    low = jnp.round((wide - middle) * _BASE)
    return Digits(
        sums.top,
        sums.middle.at[segment].add(middle.astype(jnp.int32), mode="drop"),
        sums.low.at[segment].add(low.astype(jnp.int32), mode="drop"),
    )


def carried(sums: Digits) -> Digits:
    """The same numbers with both lower digits in 0 .. 2**15 - 1."""
    middle = sums.middle + (sums.low >> BITS)
    return Digits(sums.top + (middle >> BITS), middle & (_BASE - 1), sums.low & (_BASE - 1))


def added(one: Digits, other: Digits) -> Digits:
    """The sums of two that are carried, carried."""
    return carried(jax.tree.map(jnp.add, one, other))


def to_float(sums: Digits, scale: Float[Array, " C"]) -> Float[Array, "K C"]:
    """The sums, rounded a few times to the dtype of `scale`."""
    top, middle, low = (digit.astype(scale.dtype) for digit in sums)
    # Upper digits first: those of a small negative number nearly cancel.
    return ((top * _BASE + middle) + low / _BASE) / _BASE * scale


def power_above(largest: Float[Array, ""]) -> Float[Array, ""]:
    """The smallest power of two above a number, which is not negative; 1 for 0."""
    _, exponent = jnp.frexp(largest)
    return jnp.ldexp(jnp.ones_like(largest), jnp.where(largest > 0, exponent, 0))
