"""Depthwise convolution whose weight gradient is accumulated and reduced in at least float32."""

import jax
from jax.typing import DTypeLike

from dinojax.kernels.linear import spread
from dinojax.mesh import gather
from dinojax.precision import widen
from dinojax.typing import Array, Float


def depthwise_conv(
    x: Float[Array, "n h w C"],
    weight: Float[Array, "k k 1 C"],
    bias: Float[Array, " C"],
    *,
    compute: DTypeLike,
) -> Float[Array, "n h w C"]:
    """Each channel with its own `k` x `k` filter, k odd, zeros around: as large as it came."""
    y = _depthwise(x.astype(compute), weight)
    return y + spread(bias, y.shape, y.dtype)


@jax.custom_vjp
def _depthwise(x: Float[Array, "n h w C"], weight: Float[Array, "k k 1 C"]) -> Array:
    return _convolve(x, gather(weight.astype(x.dtype)))


def _depthwise_fwd(x, weight):
    return _depthwise(x, weight), (x, weight)


def _depthwise_bwd(saved, grad):
    x, weight = saved
    whole = gather(weight.astype(x.dtype))
    (grad_x,) = jax.linear_transpose(lambda x: _convolve(x, whole), x)(grad)
    # As in `kernels.linear`: the sum over images and devices is made in the master dtype. There are
    # few products for it to slow down.
    (grad_weight,) = jax.linear_transpose(lambda w: _convolve(widen(x), w), widen(whole))(
        widen(grad)
    )
    return grad_x, grad_weight.astype(weight.dtype)


_depthwise.defvjp(_depthwise_fwd, _depthwise_bwd)


def _convolve(x: Float[Array, "n h w C"], weight: Float[Array, "k k 1 C"]) -> Array:
    margin = weight.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        weight,
        window_strides=(1, 1),
        padding=[(margin, margin)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
