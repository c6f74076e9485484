"""Layers of a ConvNeXt (arXiv:2201.03545, section 2): blocks, downsampling, stochastic depth."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from dinojax.kernels.depthwise import depthwise_conv
from dinojax.kernels.gelu import gelu
from dinojax.kernels.linear import linear
from dinojax.models.block import LayerScale
from dinojax.models.dense import Dense
from dinojax.models.embed import to_patches
from dinojax.models.norm import NORM_LAYERS
from dinojax.precision import Precision, widen
from dinojax.typing import Array, Float

Maps = Float[Array, "n h w C"]
"""Of all groups' crops of one size, in order; n = G b."""
Streams = tuple[Float[Array, "_ _ _ C"], ...]
"""Maps of each crop size."""

KERNEL = 7
_layer_norm = NORM_LAYERS["layernorm"]


class Downsample(nn.Module):
    """Non-overlapping convolution between stages, after a norm; of the first stage, before it."""

    width: int
    stride: int
    is_stem: bool
    init_std: float
    precision: Precision

    def setup(self):
        self.norm = _layer_norm(self.precision)
        self.conv = PatchConv(self.width, self.stride, self.init_std, self.precision)

    def __call__(self, x: Maps) -> Float[Array, "n r c D"]:
        return self.norm(self.conv(x)) if self.is_stem else self.conv(self.norm(x))


class PatchConv(nn.Module):
    """Convolution of square patches side by side; a remainder at the right and bottom is unused."""

    width: int
    stride: int
    init_std: float
    precision: Precision

    @nn.compact
    def __call__(self, x: Maps) -> Float[Array, "n r c D"]:
        shape = (self.stride, self.stride, x.shape[-1], self.width)
        param = self.precision.param
        kernel = self.param("kernel", nn.initializers.normal(self.init_std), shape, param)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), param)
        patches = to_patches(x, self.stride)
        compute = self.precision.compute
        return linear(patches, kernel, bias, compute=compute, input_axes=3, pinned=True)


class DepthwiseConv(nn.Module):
    """A 7 x 7 filter per channel."""

    init_std: float
    precision: Precision

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        init, width, param = (
            nn.initializers.normal(self.init_std),
            x.shape[-1],
            self.precision.param,
        )
        kernel = self.param("kernel", init, (KERNEL, KERNEL, 1, width), param)
        bias = self.param("bias", nn.initializers.zeros, (width,), param)
        return depthwise_conv(x, kernel, bias, compute=self.precision.compute)


class LayerGains(NamedTuple):
    """What one layer needs per crop size: factors of its residual branch, or None for ones."""

    gain: Float[Array, "*L n"] | None


class ConvNeXtBlock(nn.Module):
    """``x + gain * gamma * pwconv2(gelu(pwconv1(norm(dwconv(x)))))`` on maps of every crop size."""

    layerscale: float | None
    init_std: float
    precision: Precision

    @nn.compact
    def __call__(self, maps: Streams, gains: tuple[LayerGains, ...]) -> Streams:
        width, std = maps[0].shape[-1], self.init_std
        dwconv = DepthwiseConv(std, self.precision, name="dwconv")
        norm = _layer_norm(self.precision, name="norm")
        expand = Dense((4 * width,), self.precision, init_std=std, tensor_axis=-1, name="pwconv1")
        reduce = Dense((width,), self.precision, init_std=std, tensor_axis=-2, name="pwconv2")
        scale = LayerScale(self.layerscale, self.precision, name="ls") if self.layerscale else None

        out = []
        for x, (gain,) in zip(maps, gains, strict=True):
            branch = reduce(gelu(expand(norm(dwconv(x)))))
            branch = branch if scale is None else scale(branch)
            if gain is not None:
                scaled = widen(branch) * gain[:, None, None, None]
                branch = scaled.astype(branch.dtype)
            out.append(x + branch)
        return tuple(out)


def drop_path_gains(uniform: Float[Array, "L *n"], drop_path_rate: float) -> Float[Array, "L *n"]:
    """Factors of residual branches: 0 with a layer's rate, else what keeps the expectation.

    Stochastic depth with rates that rise evenly from 0 in the first layer to `drop_path_rate` in
    the last (arXiv:1603.09382, section 3). `uniform` are numbers in [0, 1).
    """
    layers = uniform.shape[0]
    rates = jnp.linspace(0, drop_path_rate, layers, dtype=uniform.dtype)
    keep = 1 - rates.reshape(-1, *[1] * (uniform.ndim - 1))
    return jnp.floor(keep + uniform) / keep
