"""Matrix products whose weight gradients are accumulated and reduced in at least float32."""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.mesh import gather
from dinojax.precision import widen
from dinojax.typing import Array, Float


@jax.custom_vjp
def _matmul(x: Float[Array, "T I"], weight: Float[Array, "I O"]) -> Float[Array, "T O"]:
    # Left to itself the partitioner would rather gather the activations and keep the split weight.
    return x @ gather(weight.astype(x.dtype))


def _matmul_fwd(x, weight):
    return _matmul(x, weight), (x, weight)


def _matmul_bwd(saved, grad):
    x, weight = saved
    # Under FSDP or data parallelism the partial weight gradients are summed over devices in the
    # dtype this product returns: asking for the master dtype keeps that reduction in float32
    # (`reduce_dtype: fp32` of the DINOv3 recipes) although the operands are bf16.
    grad_weight = jax.lax.dot_general(
        x, grad, (((0,), (0,)), ((), ())), preferred_element_type=weight.dtype
    )
    return grad @ gather(weight.astype(grad.dtype)).T, grad_weight


_matmul.defvjp(_matmul_fwd, _matmul_bwd)


def linear(
    x: Float[Array, "... I"],
    weight: Float[Array, "I *O"],
    bias: Float[Array, "*O"] | None = None,
    *,
    compute: DTypeLike,
) -> Float[Array, "..."]:
    """``x @ weight + bias`` over the last axis of `x`, with inputs cast to `compute`.

    `weight` may have several output axes, e.g. ``[D, 3, H, d]`` for fused q, k, v. Gradients with
    respect to `weight` and `bias` have their own dtype, whatever `compute` is.
    """
    inputs, outputs = weight.shape[0], weight.shape[1:]
    flat = x.astype(compute).reshape(-1, inputs)
    y = _matmul(flat, weight.reshape(inputs, math.prod(outputs)))
    if bias is not None:
        y = add_bias(y, bias.reshape(-1))
    return y.reshape(*x.shape[:-1], *outputs)


@jax.custom_vjp
def add_bias(y: Float[Array, "T O"], bias: Float[Array, " O"]) -> Float[Array, "T O"]:
    """``y + bias`` in the dtype of `y`; the bias gradient is summed in at least float32."""
    return y + bias.astype(y.dtype)


def _add_bias_fwd(y, bias):
    return add_bias(y, bias), jnp.zeros((), bias.dtype)


def _add_bias_bwd(like, grad):
    return grad, widen(grad).sum(axis=0).astype(like.dtype)


add_bias.defvjp(_add_bias_fwd, _add_bias_bwd)
