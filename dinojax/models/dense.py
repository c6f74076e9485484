"""The linear layer of every module: float32 master weights, products in the compute dtype."""

import flax.linen as nn

from dinojax.kernels.linear import linear
from dinojax.precision import Precision
from dinojax.typing import Array, Float

INIT_STD = 0.02
"""The reference's ``trunc_normal_(std=0.02)``: the cut at +-2 is 100 deviations away."""


class Dense(nn.Module):
    """``x @ kernel + bias``; `features` may name several output axes."""

    features: tuple[int, ...]
    precision: Precision
    use_bias: bool = True
    init_std: float = INIT_STD
    tensor_axis: int | None = None
    """Axis of the kernel, from its end, that is split over the mesh's tensor axis."""
    pinned: bool = False
    """For layers outside of a scan: see `mesh.gather`."""

    @nn.compact
    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "..."]:
        shape = (x.shape[-1], *self.features)
        init = nn.initializers.normal(self.init_std)
        kernel = self.param("kernel", init, shape, self.precision.param)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, self.features, self.precision.param)
        return linear(
            x,
            kernel,
            bias,
            compute=self.precision.compute,
            tensor_axis=self.tensor_axis,
            pinned=self.pinned,
        )
