"""Matrix products whose weight gradients are accumulated and reduced in at least float32.

No axes of tokens are merged on the way: 197 tokens an image do not fill whole tiles of a TPU, so
``[images, tokens, features]`` as one list of rows would be another layout and all of it would move.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from dinojax.mesh import gather
from dinojax.precision import widen
from dinojax.typing import Array, Float

PRODUCT = "product"
"""What remat policies know results by that are kept: they do not look into custom gradients."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _matmul(
    x: Float[Array, "..."],
    weight: Float[Array, "..."],
    axes: tuple[int, ...],
    input_axes: int,
    tensor_axis: int | None,
    pinned: bool,
) -> Float[Array, "..."]:
    whole = _whole(x, weight, axes, input_axes, tensor_axis, pinned)
    return jnp.tensordot(x, whole, axes=(axes, tuple(range(len(axes)))))


def _whole(x, weight, axes, input_axes, tensor_axis, pinned) -> Float[Array, "..."]:
    """The weight in the dtype of `x`, with its input axes as `x` has them."""
    # Left to itself the partitioner would rather gather the activations and keep the split weight.
    whole = gather(weight.astype(x.dtype), tensor_axis, pinned=pinned)
    return whole.reshape(*(x.shape[axis] for axis in axes), *weight.shape[input_axes:])


def _matmul_fwd(x, weight, *options):
    return _matmul(x, weight, *options), (x, weight)


def _matmul_bwd(axes, input_axes, tensor_axis, pinned, saved, grad):
    x, weight = saved
    rows = x.ndim - len(axes)
    grad_weight = _weight_gradient(x, grad, axes, weight.dtype)
    whole = _whole(x, weight, axes, input_axes, tensor_axis, pinned)
    outputs = (tuple(range(rows, grad.ndim)), tuple(range(len(axes), whole.ndim)))
    grad_x = jnp.tensordot(grad, whole, axes=outputs)
    grad_x = jnp.moveaxis(grad_x, range(rows, x.ndim), axes)
    return grad_x, grad_weight.reshape(weight.shape)


def _weight_gradient(x, grad, axes: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "..."]:
    """Products of `axes` of `x` with the outputs, the last axes of `grad`, summed over all others.

    Under FSDP or data parallelism the partial weight gradients are summed over devices in the dtype
    that this product returns: asking for the master dtype keeps that reduction in float32
    (`reduce_dtype: fp32` of the DINOv3 recipes) although the operands are bf16.
    """
    free = tuple(axis for axis in range(x.ndim) if axis not in axes)
    product = functools.partial(jax.lax.dot_general, preferred_element_type=dtype)

    def as_they_are(x, grad):
        return product(x, grad, ((free, tuple(range(len(free)))), ((), ())))

    def by_rows(x, grad):
        rows = math.prod(grad.shape[: len(free)])
        inputs = jnp.moveaxis(x, axes, range(len(free), x.ndim))
        sums = product(inputs.reshape(rows, -1), grad.reshape(rows, -1), (((0,), (0,)), ((), ())))
        return sums.reshape(*inputs.shape[len(free) :], grad.shape[-1])

    if grad.ndim > len(free) + 1:  # one of several axes of outputs may lie over the mesh's tensor
        return as_they_are(x, grad)
    # A processor sums over one axis as it lies. For several XLA would transpose `x`, in one loop
    # with the activation function that `x` comes from: neither is vectorised then.
    return jax.lax.platform_dependent(x, grad, cpu=by_rows, default=as_they_are)


_matmul.defvjp(_matmul_fwd, _matmul_bwd)


def linears(
    x: Float[Array, "*n I"],
    weight: Float[Array, "I S *O"],
    biases: Sequence[Float[Array, "*O"] | None],
    *,
    compute: DTypeLike,
    tensor_axis: int,
) -> list[Float[Array, "*n _"]]:
    """S products of one input, e.g. q, k and v, each with its output axes as a single one.

    Apart from each other, because a kernel reads whole arrays: q, k and v as parts of one would be
    copied. Their weight is one parameter, gathered at once. See `linear` for the rest.
    """
    ys: Any = _matmuls(x.astype(compute), weight, tensor_axis)
    ys = [checkpoint_name(y, PRODUCT) for y in ys]
    flat = [None if b is None else b.reshape(-1) for b in biases]
    return [
        y if b is None else y + spread(b, y.shape, y.dtype) for y, b in zip(ys, flat, strict=True)
    ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmuls(x, weight, tensor_axis):
    whole = _whole_parts(x, weight, tensor_axis)
    return tuple(x @ whole[:, part] for part in range(weight.shape[1]))


def _whole_parts(x, weight, tensor_axis) -> Float[Array, "I S _"]:
    whole = gather(weight.astype(x.dtype), tensor_axis)
    return whole.reshape(*weight.shape[:2], -1)


def _matmuls_fwd(x, weight, tensor_axis):
    return _matmuls(x, weight, tensor_axis), (x, weight)


def _matmuls_bwd(tensor_axis, saved, grads):
    x, weight = saved
    # One product each, so that there is one sum over devices. Stacked, not joined: the axis of
    # outputs may be split over tensor.
    grad = jnp.stack(grads, axis=-2)
    rows = tuple(range(x.ndim - 1))
    by_weight = jax.lax.dot_general(  # in the master dtype, as in `_matmul_bwd`
        x, grad, ((rows, rows), ((), ())), preferred_element_type=weight.dtype
    )
    by_x = jnp.tensordot(grad, _whole_parts(x, weight, tensor_axis), ((-2, -1), (1, 2)))
    return by_x, by_weight.reshape(weight.shape)


_matmuls.defvjp(_matmuls_fwd, _matmuls_bwd)


def linear(
    x: Float[Array, "..."],
    weight: Float[Array, "..."],
    bias: Float[Array, "*O"] | None = None,
    *,
    compute: DTypeLike,
    axes: Sequence[int] = (-1,),
    input_axes: int = 1,
    tensor_axis: int | None = None,
    pinned: bool = False,
) -> Float[Array, "..."]:
    """``x @ weight + bias`` over `axes` of `x`, ascending, with inputs cast to `compute`.

    `weight` may have several axes for the outputs and `input_axes` for the inputs, e.g.
    ``[p, q, C, D]`` for patches: the numbers of `axes` in their order, however these divide them.
    `tensor_axis` is the one, from the end, that lies over the mesh's tensor axis
    (`mesh.TENSOR_RULES`); `pinned` is for weights outside of a scan, see `mesh.gather`. Gradients
    with respect to `weight` and `bias` have their own dtype, whatever `compute` is.
    """
    summed = tuple(axis % x.ndim for axis in axes)
    y: Any = _matmul(x.astype(compute), weight, summed, input_axes, tensor_axis, pinned)
    y = checkpoint_name(y, PRODUCT)
    return y if bias is None else y + spread(bias, y.shape, y.dtype)


def spread(
    weight: Float[Array, "*O"], shape: tuple[int, ...], dtype: DTypeLike
) -> Float[Array, "..."]:
    """A bias, gain or token repeated to `shape`, whose last axes are its own.

    Its gradient is summed over tokens and devices in its own dtype, at least float32, whatever
    `dtype` is.
    """
    repeated: Any = _spread(weight, shape, dtype)
    return repeated


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _spread(weight, shape, dtype):
    return jnp.broadcast_to(weight.astype(dtype), shape)


def _spread_fwd(weight, shape, dtype):
    return _spread(weight, shape, dtype), jnp.zeros(weight.shape, weight.dtype)


def _spread_bwd(shape, dtype, like, grad):
    del dtype
    rows = tuple(range(len(shape) - like.ndim))
    return (widen(grad).sum(axis=rows).astype(like.dtype),)


_spread.defvjp(_spread_fwd, _spread_bwd)
