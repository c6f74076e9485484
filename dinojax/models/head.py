"""Projection head of the DINO and iBOT objectives (arXiv:2104.14294, section 3.1)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.kernels.gelu import gelu
from dinojax.kernels.linear import linear
from dinojax.models.dense import INIT_STD, Dense
from dinojax.precision import Precision, unit_rows, widen
from dinojax.typing import Array, Float, Key


class DinoHead(nn.Module):
    """MLP to a bottleneck, L2 normalisation, then a bias-free map to prototype logits.

    With `weight_norm` each prototype is its direction times a trained gain (arXiv:1602.07868), as
    in DINOv2; in DINOv3 prototypes are plain weights.
    """

    prototypes: int
    precision: Precision
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    layers: int = 3
    mlp_bias: bool = True
    weight_norm: bool = False

    def setup(self):
        widths = [self.hidden_dim] * (self.layers - 1) + [self.bottleneck_dim]
        self.mlp = [Dense((w,), self.precision, self.mlp_bias, pinned=True) for w in widths]
        shape = (self.bottleneck_dim, self.prototypes)
        init = nn.initializers.normal(INIT_STD)
        if self.weight_norm:  # PyTorch's default for linear layers, which DINOv2 leaves as it is
            init = partial(_uniform, bound=self.bottleneck_dim**-0.5)
        self.last_layer = self.param("last_layer", init, shape, self.precision.param)
        if self.weight_norm:
            ones = nn.initializers.ones
            self.last_layer_gain = self.param(
                "last_layer_gain", ones, shape[1:], self.precision.param
            )

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... K"]:
        """Prototype logits, at least float32."""
        return self.to_logits(self.to_bottleneck(x))

    def to_bottleneck(self, x: Float[Array, "... D"]) -> Float[Array, "... bottleneck"]:
        """The L2-normalised input of the prototype layer."""
        for index, dense in enumerate(self.mlp):
            x = dense(x if index == 0 else gelu(x))
        return unit_rows(x).astype(x.dtype)

    def to_logits(self, bottleneck: Float[Array, "... bottleneck"]) -> Float[Array, "... K"]:
        """Prototype logits of a bottleneck feature, which is not normalised again."""
        columns, compute = self.prototype_columns(), self.precision.compute
        logits = linear(bottleneck, columns, compute=compute, tensor_axis=-1, pinned=True)
        return widen(logits)

    def prototype_columns(self) -> Float[Array, "bottleneck K"]:
        """The matrix that bottleneck features are multiplied with, in the parameters' dtype."""
        if not self.weight_norm:
            return self.last_layer
        norm = jnp.sqrt(jnp.square(self.last_layer).sum(axis=0))
        return self.last_layer * (self.last_layer_gain / norm)


def _uniform(key: Key, shape: tuple[int, ...], dtype: DTypeLike, *, bound: float) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)
