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
"""What remat policies know the results by: they do not see products inside of a custom gradient."""


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

    `weight` may have several axes for the outputs, e.g. ``[D, 3, H, d]`` for fused q, k, v, and
    `input_axes` for the inputs, e.g. ``[p, q, C, D]`` for patches: the numbers of `axes` in their
    order, however these divide them. `tensor_axis` is the one, from the end, that lies over the
    mesh's tensor axis (`mesh.TENSOR_RULES`); `pinned` is for weights outside of a scan, see
    `mesh.gather`. Gradients with respect to `weight` and `bias` have
    their own dtype, whatever `compute` is.
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
