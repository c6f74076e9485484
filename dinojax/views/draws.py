"""Many small random numbers from one hash of a key.

A crop needs dozens of scalars. Drawn one by one, each adds a hash to the program, and compiling
those takes longer than compiling the image work: here a consumer draws one batch and names its
parts. The width is explicit, so that a run in 64-bit mode sees the same crops.
"""

import itertools

import jax
import jax.numpy as jnp

from dinojax.typing import Array, Bool, Float, Int, Key

Limit = float | int | Array


def draw(key: Key, **sizes: int) -> dict[str, Float[Array, " n"]]:
    """Independent uniform vectors in ``[0, 1)`` of the given sizes, by name."""
    numbers = jax.random.uniform(key, (sum(sizes.values()),), dtype=jnp.float32)
    ends = itertools.accumulate(sizes.values())
    return {
        name: numbers[end - size : end]
        for (name, size), end in zip(sizes.items(), ends, strict=True)
    }


def between(unit: Float[Array, "*s"], low: Limit, high: Limit) -> Float[Array, "*s"]:
    """Uniform in ``[low, high)`` from uniform in ``[0, 1)``."""
    return low + unit * (high - low)


def integer_to(unit: Float[Array, "*s"], last: Limit) -> Int[Array, "*s"]:
    """Uniform in ``0..last``, both included; even to 1 in 2^23, enough for pixel positions."""
    return jnp.floor(unit * (last + 1)).astype(jnp.int32)


def coin(unit: Float[Array, "1"], probability: float) -> Bool[Array, ""]:
    """True with the given probability; exactly never for 0 and always for 1."""
    return unit[0] < probability
