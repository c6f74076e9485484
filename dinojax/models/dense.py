"""The linear layer of every module: float32 master weights, products in the compute dtype."""

import flax.linen as nn
import jax.numpy as jnp

from dinojax.kernels.linear import linear
from dinojax.precision import Precision
from dinojax.typing import Array, Float

WEIGHT_INIT = nn.initializers.normal(0.02)
"""PyTorch's ``trunc_normal_(std=0.02)`` cuts at +-2, a hundred deviations: a plain normal."""


class Dense(nn.Module):
    """``x @ kernel + bias``; `features` may name several output axes, e.g. ``(3, H, d)``.

    `bias_gain` multiplies the bias along its first axis: a zero there keeps that part of the bias,
    and its gradient, out of the sum (the masked k-bias of DINOv3).
    """

    features: tuple[int, ...]
    precision: Precision
    use_bias: bool = True
    bias_gain: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "..."]:
        shape = (x.shape[-1], *self.features)
        kernel = self.param("kernel", WEIGHT_INIT, shape, self.precision.param)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, self.features, self.precision.param)
            if self.bias_gain is not None:
                gain = jnp.asarray(self.bias_gain, bias.dtype)
                bias = bias * gain.reshape(-1, *[1] * (bias.ndim - 1))
        return linear(x, kernel, bias, compute=self.precision.compute)
