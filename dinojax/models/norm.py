"""LayerNorm and RMSNorm with statistics in at least float32."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from dinojax.kernels.linear import spread
from dinojax.precision import Precision, widen
from dinojax.typing import Array, Float


class LayerNorm(nn.Module):
    """Affine layer norm with biased, two-pass variance (arXiv:1607.06450)."""

    precision: Precision
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], self.precision.param)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.precision.param)
        wide = widen(x)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        y = centred / jnp.sqrt(variance + self.epsilon) * widen(scale) + widen(bias)
        return y.astype(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm without bias (arXiv:1910.07467)."""

    precision: Precision
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], self.precision.param)
        wide = widen(x)
        normed = wide / jnp.sqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + self.epsilon)
        return normed.astype(x.dtype) * spread(scale, x.shape, x.dtype)


NORM_LAYERS: dict[str, Callable[..., nn.Module]] = {
    "layernorm": functools.partial(LayerNorm, epsilon=1e-6),
    # The reference's name: it changes the epsilon, not the dtype.
    "layernormbf16": functools.partial(LayerNorm, epsilon=1e-5),
    "rmsnorm": functools.partial(RMSNorm, epsilon=1e-5),
}
