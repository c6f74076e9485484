"""What Pallas kernels for TPUs share, most of it those over tiles of ``[rows, K]`` logits.

Rows and prototypes that only fill up the last tiles take no part because of the numbers they get,
not by a mask: a centre of infinity is a logit of minus infinity.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dinojax.precision import widen
from dinojax.typing import Array, Float

SUBLANES, LANES = 16, 128
"""What the sides of tiles are multiples of: a register of bfloat16."""
VMEM_BYTES = 56 * 2**20
"""Of the 64 MiB of a v5p; a v5e or v6e has 128."""

Temperature = float | Float[Array, ""]


def split_evenly(size: int, most: int, unit: int) -> tuple[int, int]:
    """(number of tiles, length), the length a multiple of `unit`, and of about `most` or less."""
    count = math.ceil(size / most)
    return count, math.ceil(size / count / unit) * unit


def passes(outer: int, inner: int) -> int:
    """How often the tiles along a grid's inner axis are copied: a single one stays where it is."""
    return outer if inner > 1 else 1


def fill(x: Array, axis: int, size: int, value: float = 0.0) -> Array:
    """`x` with `value` up to `size` along `axis`."""
    missing = [(0, size - x.shape[axis] if i == axis else 0) for i in range(x.ndim)]
    return jnp.pad(x, missing, constant_values=value)


def multiply(a: Float[Array, "..."], b: Float[Array, "..."], axes: tuple[int, int] = (1, 0)):
    """Matrix product over one axis of each, summed in at least float32.

    Whatever `jax_default_matmul_precision` is: one pass over 16-bit factors is exact, and all that
    the compiler has for them, and float32 ones are not rounded on the way.
    """
    highest = a.dtype.itemsize >= 4
    return jax.lax.dot_general(
        a,
        b,
        (((axes[0],), (axes[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if highest else jax.lax.Precision.DEFAULT,
        preferred_element_type=widen(a).dtype,
    )


def inverse(temperature: Temperature, like: Array) -> Float[Array, " 1"]:
    """As a kernel reads a scalar, in the dtype of statistics of `like`."""
    return (1 / jnp.asarray(temperature, widen(like).dtype))[None]


SCALAR = pl.BlockSpec(memory_space=pltpu.SMEM)


def options(*axes: Literal["parallel", "arbitrary"]) -> pltpu.CompilerParams:
    """Grid axes are "parallel" or "arbitrary": one tile after another, in order."""
    return pltpu.CompilerParams(dimension_semantics=axes, vmem_limit_bytes=VMEM_BYTES)
