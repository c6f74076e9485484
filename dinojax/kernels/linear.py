"""Matrix products whose weight gradients are accumulated and reduced in at least float32."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.mesh import gather, scatter
from dinojax.precision import widen
from dinojax.typing import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(
    x: Float[Array, "T I"], weight: Float[Array, "..."], tensor_axis: int | None
) -> Float[Array, "T ..."]:
    # Left to itself the partitioner would rather gather the activations and keep the split weight.
    return jnp.tensordot(x, _rows(gather(weight.astype(x.dtype), tensor_axis), x), axes=1)


def _matmul_fwd(x, weight, tensor_axis):
    return _matmul(x, weight, tensor_axis), (x, weight)


def _matmul_bwd(tensor_axis, saved, grad):
    x, weight = saved
    # Under FSDP or data parallelism the partial weight gradients are summed over devices in the
    # dtype this product returns: asking for the master dtype keeps that reduction in float32
    # (`reduce_dtype: fp32` of the DINOv3 recipes) although the operands are bf16.
    grad_weight = jax.lax.dot_general(
        x, grad, (((0,), (0,)), ((), ())), preferred_element_type=weight.dtype
    )
    outputs = tuple(range(1, grad.ndim))
    whole = _rows(gather(weight.astype(grad.dtype), tensor_axis), x)
    grad_x = jnp.tensordot(grad, whole, axes=(outputs, outputs))
    return grad_x, scatter(grad_weight.reshape(weight.shape), tensor_axis)


_matmul.defvjp(_matmul_fwd, _matmul_bwd)


def _rows(weight: Float[Array, "..."], x: Float[Array, "T I"]) -> Float[Array, "I ..."]:
    """The weight with its input axes, one or several, as one."""
    inputs = next(n for n in range(weight.ndim) if math.prod(weight.shape[:n]) == x.shape[1])
    return weight.reshape(x.shape[1], *weight.shape[inputs:])


def linear(
    x: Float[Array, "... I"],
    weight: Float[Array, "..."],
    bias: Float[Array, "*O"] | None = None,
    *,
    compute: DTypeLike,
    tensor_axis: int | None = None,
) -> Float[Array, "..."]:
    """``x @ weight + bias`` over the last axis of `x`, with inputs cast to `compute`.

    `weight` may have several axes for the inputs, e.g. ``[p, q, C, D]`` for patches, and for the
    outputs, e.g. ``[D, 3, H, d]`` for fused q, k, v; `tensor_axis` is the one, from the end, that
    lies over the mesh's tensor axis (`mesh.TENSOR_RULES`). Gradients with respect to `weight` and
    `bias` have their own dtype, whatever `compute` is.
    """
    flat = x.astype(compute).reshape(-1, x.shape[-1])
    y: Any = _matmul(flat, weight, tensor_axis)
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
