"""Projection head of the DINO and iBOT objectives (arXiv:2104.14294, section 3.1)."""

import flax.linen as nn
import jax

from dinojax.kernels.linear import linear
from dinojax.models.dense import INIT_STD, Dense
from dinojax.precision import Precision, unit_rows, widen
from dinojax.typing import Array, Float


class DinoHead(nn.Module):
    """MLP to a bottleneck, L2 normalisation, then a bias-free map to prototype logits.

    The prototypes are neither weight-normalised nor frozen in norm (DINOv3).
    """

    prototypes: int
    precision: Precision
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    layers: int = 3
    mlp_bias: bool = True

    def setup(self):
        widths = [self.hidden_dim] * (self.layers - 1) + [self.bottleneck_dim]
        self.mlp = [Dense((w,), self.precision, self.mlp_bias, pinned=True) for w in widths]
        shape = (self.bottleneck_dim, self.prototypes)
        init = nn.initializers.normal(INIT_STD)
        self.last_layer = self.param("last_layer", init, shape, self.precision.param)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... K"]:
        """Prototype logits, at least float32."""
        return self.to_logits(self.to_bottleneck(x))

    def to_bottleneck(self, x: Float[Array, "... D"]) -> Float[Array, "... bottleneck"]:
        """The L2-normalised input of the prototype layer."""
        for index, dense in enumerate(self.mlp):
            x = dense(x if index == 0 else jax.nn.gelu(x, approximate=False))
        return unit_rows(x, 1e-12).astype(x.dtype)

    def to_logits(self, bottleneck: Float[Array, "... bottleneck"]) -> Float[Array, "... K"]:
        """Prototype logits of a bottleneck feature, which is not normalised again."""
        compute = self.precision.compute
        logits = linear(bottleneck, self.last_layer, compute=compute, tensor_axis=-1, pinned=True)
        return widen(logits)
