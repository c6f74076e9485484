"""Matrix products whose weight gradients are accumulated and reduced in at least float32."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.mesh import gather, scatter
from dinojax.precision import widen
from dinojax.typing import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _matmul(
    x: Float[Array, "T I"], weight: Float[Array, "..."], input_axes: int, tensor_axis: int | None
) -> Float[Array, "T ..."]:
    # Left to itself the partitioner would rather gather the activations and keep the split weight.
    whole = gather(weight.astype(x.dtype), tensor_axis)
    return jnp.tensordot(x, _rows(whole, input_axes), axes=1)


def _matmul_fwd(x, weight, input_axes, tensor_axis):
    return _matmul(x, weight, input_axes, tensor_axis), (x, weight)


def _matmul_bwd(input_axes, tensor_axis, saved, grad):
    x, weight = saved
    # Under FSDP or data parallelism the partial weight gradients are summed over devices in the
    # dtype this product returns: asking for the master dtype keeps that reduction in float32
    # (`reduce_dtype: fp32` of the DINOv3 recipes) although the operands are bf16.
    grad_weight = jax.lax.dot_general(
        x, grad, (((0,), (0,)), ((), ())), preferred_element_type=weight.dtype
    )
    outputs = tuple(range(1, grad.ndim))
    whole = gather(weight.astype(grad.dtype), tensor_axis)
    grad_x = jnp.tensordot(grad, _rows(whole, input_axes), axes=(outputs, outputs))
    return grad_x, scatter(grad_weight.reshape(weight.shape), tensor_axis)


_matmul.defvjp(_matmul_fwd, _matmul_bwd)


def _rows(weight: Float[Array, "..."], input_axes: int) -> Float[Array, "I ..."]:
    """The weight with its input axes as one."""
    return weight.reshape(-1, *weight.shape[input_axes:])


def linear(
    x: Float[Array, "... I"],
    weight: Float[Array, "..."],
    bias: Float[Array, "*O"] | None = None,
    *,
    compute: DTypeLike,
    input_axes: int = 1,
    tensor_axis: int | None = None,
) -> Float[Array, "..."]:
    """``x @ weight + bias`` over the last axis of `x`, with inputs cast to `compute`.

    `weight` may have several axes for the outputs, e.g. ``[D, 3, H, d]`` for fused q, k, v, and
    `input_axes` for the inputs, e.g. ``[p, q, C, D]`` for patches. `tensor_axis` is the one, from
    the end, that lies over the mesh's tensor axis (`mesh.TENSOR_RULES`). Gradients with respect to
    `weight` and `bias` have their own dtype, whatever `compute` is.
    """
    flat = x.astype(compute).reshape(-1, x.shape[-1])
    y: Any = _matmul(flat, weight, input_axes, tensor_axis)
    if bias is not None:
        y = add_bias(y, bias)
    return y.reshape(*x.shape[:-1], *y.shape[1:])


@jax.custom_vjp
def add_bias(y: Float[Array, "T *O"], bias: Float[Array, "*O"]) -> Float[Array, "T *O"]:
    """``y + bias`` in the dtype of `y`; the bias gradient is summed in at least float32."""
    return y + bias.astype(y.dtype)


def _add_bias_fwd(y, bias):
    return add_bias(y, bias), jnp.zeros((), bias.dtype)


def _add_bias_bwd(like, grad):
    return grad, widen(grad).sum(axis=0).astype(like.dtype)


add_bias.defvjp(_add_bias_fwd, _add_bias_bwd)
