"""The exact GELU (arXiv:1606.08415), which keeps nothing but its input for the backward pass."""

import math

import jax
import jax.numpy as jnp

from dinojax.precision import widen
from dinojax.typing import Array, Float


@jax.custom_vjp
def gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """``x (1 + erf(x / sqrt 2)) / 2``, in at least float32 between its input and its result.

    As PyTorch computes it. `jax.nn.gelu` has erfc instead, with an exponential and a quotient more
    and right digits where the result vanishes: here the error is a unit or two in the last place of
    `x`. It also keeps several arrays as large for its gradient.
    """
    wide = widen(x)
    return (wide * _cdf(wide)).astype(x.dtype)


def _gelu_fwd(x):
    return gelu(x), x


def _gelu_bwd(x, grad):
    wide = widen(x)
    density = jnp.exp(-0.5 * jnp.square(wide)) / math.sqrt(2 * math.pi)
    return ((widen(grad) * (_cdf(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(_gelu_fwd, _gelu_bwd)


def _cdf(x: Array) -> Array:
    """Of the standard normal distribution."""
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))
