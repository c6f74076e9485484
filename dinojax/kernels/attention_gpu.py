"""Attention on NVIDIA GPUs with RoPE inside: Pallas kernels in its Mosaic GPU dialect.

The same kernels with Hopper's copies and products (`tiles_gpu`) and with those that also Ampere has
(`tiles_ampere`). They have not run on a GPU; `docs/attention_gpu.md` says what was
checked.
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike

from dinojax.kernels.attention_gpu_backward import backward
from dinojax.kernels.attention_gpu_forward import forward
from dinojax.kernels.rope import RopeTables, apply_rope
from dinojax.kernels.stream_gpu import MAX_IMAGES, make_plan, pack_tables
from dinojax.kernels.tiles_ampere import Ampere
from dinojax.kernels.tiles_gpu import Hopper
from dinojax.kernels.tiles_interpreted import Interpreted
from dinojax.typing import Array, Float

HOPPER, AMPERE = Hopper(), Ampere()
HEAD_WIDTHS = (64, 128)
DTYPES = (jnp.bfloat16, jnp.float16)

Heads = Float[Array, "G b N H d"]


def supports(
    q_shape: tuple[int, ...], dtype: DTypeLike, capability: str | None, machine: Hopper = HOPPER
) -> str | None:
    """Why kernels for `machine` cannot take queries of this shape, or None.

    `capability` is the GPU's, None for Mosaic's interpreter.
    """
    if capability is not None and (why := machine.refuses(capability)):
        return why
    if q_shape[0] * q_shape[1] > MAX_IMAGES:
        return f"{q_shape[0] * q_shape[1]} images are more than {MAX_IMAGES}"
    if q_shape[-1] not in HEAD_WIDTHS:
        return f"head width {q_shape[-1]} is none of {HEAD_WIDTHS}"
    if jnp.dtype(dtype) not in DTYPES:
        return f"{jnp.dtype(dtype).name} is neither bfloat16 nor float16"
    return None


def flash(
    q: Heads,
    k: Heads,
    v: Heads,
    rope: RopeTables | None,
    *,
    machine: Hopper = HOPPER,
    interpret: bool = False,
) -> Heads:
    """``softmax(turn(q) turn(k)^T / sqrt(d)) v`` for every image and head, on one device.

    `rope` has tables of all tokens, ``[T, N, d]`` with ``T`` 1 or ``G``, whose two halves are the
    same (as `rope_tables` makes them). Turned queries and keys are rounded to their dtype, as
    `apply_rope` does; logits, softmax and sums are float32, weights are rounded for their product.
    Saved for the backward pass are the arguments, the result and a float32 per query.
    """
    if rope is not None and rope.cos.dtype != jnp.float32:  # with bf16 tables products are rounded
        q, k, rope = apply_rope(q, rope), apply_rope(k, rope), None
    if interpret:
        machine = Interpreted(machine.warpgroups)
    return _flash(machine, q, k, v, rope)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flash(machine: Hopper, q: Heads, k: Heads, v: Heads, rope: RopeTables | None) -> Heads:
    return _forward(machine, q, k, v, rope)[0]


def _forward(machine, q, k, v, rope):
    plan, tables = _plan(machine, q, rope)
    out, sums = forward(plan, _images(q), _images(k), _images(v), tables)
    out = out.reshape(q.shape)
    return out, (q, k, v, rope, out, sums)


def _backward(machine, saved, d_out):
    q, k, v, rope, out, sums = saved
    plan, tables = _plan(machine, q, rope)
    gradients = backward(
        plan, _images(q), _images(k), _images(v), _images(out), _images(d_out), tables, sums
    )
    return *(x.reshape(q.shape) for x in gradients), None


_flash.defvjp(_forward, _backward)


def _plan(machine: Hopper, q: Heads, rope: RopeTables | None):
    *_, tokens, _, width = q.shape
    plan = make_plan(machine, tokens, width, turns=rope is not None)
    return plan, None if rope is None else pack_tables(rope, plan.tiles)


def _images(x: Heads) -> Float[Array, "R N H d"]:
    return rearrange(x, "G b N H d -> (G b) N H d")
