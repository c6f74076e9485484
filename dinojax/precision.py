"""The one place that names floating point widths.

A `Precision` says in which dtype parameters live, matmuls run and RoPE tables are made. Everything
that must not lose bits (softmax, norm statistics, losses, targets) goes through `widen`, which
lifts 16-bit inputs to float32 and leaves float32 and float64 alone, so that under the
``float64`` policy every stage is float64 without another switch.
"""

import contextlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dinojax.typing import Array, Float, Key

EPSILON = 1e-12
"""Rows shorter than this have no direction; torch's default."""


@dataclass(frozen=True)
class Precision:
    """Dtypes of a run: ``param`` of master weights, ``compute`` of matmuls, ``rope`` of tables."""

    param: DTypeLike
    compute: DTypeLike
    rope: DTypeLike

    def exact_products(self) -> contextlib.AbstractContextManager[None]:
        """While a program is traced: float32 products are those of float32 numbers.

        By default a TPU takes one pass over bfloat16 halves and a GPU TF32, which a policy that
        computes in float32 does not want.
        """
        if jnp.dtype(self.compute).itemsize < 4:
            return contextlib.nullcontext()
        return jax.default_matmul_precision("highest")


POLICIES = {
    "bfloat16": Precision(param=jnp.float32, compute=jnp.bfloat16, rope=jnp.float32),
    "float32": Precision(param=jnp.float32, compute=jnp.float32, rope=jnp.float32),
    "float64": Precision(param=jnp.float64, compute=jnp.float64, rope=jnp.float64),
    # The published runs rotate in bf16 whatever their YAML says (docs/reference_behaviour.md).
    "reference": Precision(param=jnp.float32, compute=jnp.bfloat16, rope=jnp.bfloat16),
}


def get_precision(name: str) -> Precision:
    """Look a policy up by name.

    Raises:
        ValueError: the name is not a key of `POLICIES`.
    """
    if name not in POLICIES:
        raise ValueError(f"precision={name!r} is not a policy; use one of {sorted(POLICIES)}")
    return POLICIES[name]


def widen(x: Array) -> Array:
    """At least float32: 16-bit floats are lifted, float32 and float64 stay as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def round_randomly(x: Array, key: Key) -> Array:
    """To bfloat16, up or down with the odds that keep the expected value (of `x` as float32).

    A sum of many small steps survives this; to nearest, steps below half a unit in the last place
    (0.2 to 0.4 %) are lost every time.
    """
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    # Carries out of the 16 bits that bfloat16 lacks, in a share of the cases that is their value.
    wide = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    bits = (wide + noise) & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(jnp.bfloat16)


def bfloat16_halves(x: Array) -> tuple[Array, Array]:
    """Two bfloat16 arrays whose sum is `x` to 16 bits: a product with each costs one pass.

    `reduce_precision` because compilers may take a cast there and back for nothing at all.
    """
    high = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return high.astype(jnp.bfloat16), (x - high).astype(jnp.bfloat16)


def unit_rows(x: Array, epsilon: float = EPSILON) -> Array:
    """``x / max(norm, epsilon)`` over the last axis, at least float32.

    The bound is taken before the square root, whose slope at zero is infinite: a zero row stays so
    with the gradient of ``x / epsilon``, not NaN. (With stochastic depth a mask token can reach a
    head as exact zeros.)
    """
    wide = widen(x)
    square = jnp.square(wide).sum(axis=-1, keepdims=True)
    return wide / jnp.sqrt(jnp.maximum(square, epsilon**2))


def host_unit_rows(x: Float[np.ndarray, "*n D"]) -> Float[np.ndarray, "*n D"]:
    """`unit_rows` in NumPy, in the dtype of `x`."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), EPSILON)
