"""From a student's features to a teacher's, for losses between features."""

import flax.linen as nn

from dinojax.kernels.gelu import gelu
from dinojax.models.dense import Dense
from dinojax.precision import Precision
from dinojax.typing import Array, Float


class Projection(nn.Module):
    """A linear map to `width`, or with `hidden_dim` an MLP of two layers with GELU."""

    width: int
    precision: Precision
    hidden_dim: int | None = None

    def setup(self):
        hidden = () if self.hidden_dim is None else (self.hidden_dim,)
        self.mlp = [Dense((w,), self.precision, pinned=True) for w in (*hidden, self.width)]

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... width"]:
        for index, dense in enumerate(self.mlp):
            x = dense(x if index == 0 else gelu(x))
        return x
