"""Attention of whole sequences in a TPU's vector memory (VMEM), RoPE included, as Pallas kernels.

A vision transformer's sequences are short, of one odd length and without a mask, so a program holds
all keys and values of its heads and needs no running softmax. Arrays are ``[images, N, H d]``, as
products leave them: a block has all tokens and 128 lanes, that is two heads of 64 or one of 128, so
nothing is transposed or padded in main memory. Of short sequences, as of local crops, a program
takes several images, and as many of them as fill a tile of 128 share their products, with a mask
between them: one image of 37 tokens would leave most of the matrix unit idle. (So a value that is
not finite reaches the images next to it; in training such a step is not taken.)

The backward pass keeps q, k and v alone. Its kernel computes the softmax again, of which it then
needs no statistics, and makes the gradients of all three at once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from dinojax.kernels.attention_tpu_body import (
    LANES,
    SUBLANES,
    Tiling,
    backward_kernel,
    forward_kernel,
    tiling,
    up,
)
from dinojax.kernels.on_device import per_device, platform
from dinojax.kernels.rope import RopeTables
from dinojax.typing import Array, Float

VMEM_BYTES = 48 * 2**20
"""What a kernel may use: of 64 MiB of a v5p, of 128 MiB of v5e and v6e."""

Heads = Float[Array, "G b N H d"]
Flat = Float[Array, "G b N W"]
"""Heads side by side, W = H d."""


@jax.custom_vjp
def attend(q: Heads, k: Heads, v: Heads, rope: RopeTables | None) -> Heads:
    """See `dinojax.kernels.attention.attention`; without a gradient to `rope`."""
    return per_device(_attend_here, (q, k, v), rope)


def _attend_fwd(q, k, v, rope):
    return attend(q, k, v, rope), (q, k, v, rope)


def _attend_bwd(saved, grad):
    *qkv, rope = saved
    return *per_device(_gradients_here, (*qkv, grad), rope), None


attend.defvjp(_attend_fwd, _attend_bwd)


def unsupported(shape: Sequence[int], dtype: DTypeLike, tables: DTypeLike | None) -> str | None:
    """Why attention of ``[G, b, N, H, d]``, all on one device, cannot be computed; None if it can.

    `tables`: the dtype of RoPE's, None without.
    """
    _, images, tokens, heads, head_dim = shape
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.bfloat16, jnp.float32):
        return f"{dtype.name} is neither bfloat16 nor float32"
    if head_dim not in (64, 128):
        return f"head dim {head_dim} is neither 64 nor 128"
    if tables is not None and jnp.dtype(tables) != jnp.float32:
        return f"RoPE in {jnp.dtype(tables).name} rounds after every operation"
    cut = tiling(images, tokens, heads, head_dim)
    block = cut.images * up(tokens, SUBLANES) * up(cut.heads * head_dim, LANES)
    logits = cut.queries * up(cut.rows, LANES) * 4
    # Seven arrays of the backward pass in two buffers; float32 copies of a slab; four of logits.
    needed = 14 * block * dtype.itemsize + 8 * block // cut.images * cut.packed * 4 + 4 * logits
    if needed > VMEM_BYTES:
        return f"{tokens} tokens take {needed / 2**20:.0f} of {VMEM_BYTES >> 20} MiB of VMEM"
    return None


def _attend_here(q: Heads, k: Heads, v: Heads, rope: RopeTables | None) -> Heads:
    return _call(forward_kernel, (q, k, v), rope, outputs=1)[0]


def _gradients_here(
    q: Heads, k: Heads, v: Heads, grad: Heads, rope: RopeTables | None
) -> tuple[Heads, ...]:
    return _call(backward_kernel, (q, k, v, grad), rope, outputs=3)


def _call(
    kernel: Callable[..., None],
    arrays: tuple[Heads, ...],
    rope: RopeTables | None,
    *,
    outputs: int,
) -> tuple[Heads, ...]:
    groups, images, tokens, heads, head_dim = arrays[0].shape
    dtype = arrays[0].dtype
    flat = [rearrange(x, "G b N H d -> G b N (H d)") for x in arrays]
    cut = tiling(images, tokens, heads, head_dim)
    lanes = cut.heads * head_dim
    block = pl.BlockSpec((None, cut.images, tokens, lanes), lambda g, i, h: (g, i, 0, h))
    tables = () if rope is None else _tables(rope, cut)
    of_group = len(tables) > 0 and len(tables[0]) > 1
    table = pl.BlockSpec((None, cut.rows, lanes), lambda g, i, h: (g if of_group else 0, 0, 0))
    products = groups * images * heads * tokens**2
    moved = (len(arrays) + outputs) * arrays[0].size * dtype.itemsize
    result: Any = pl.pallas_call(
        functools.partial(kernel, cut=cut, images=images),
        grid=(groups, pl.cdiv(images, cut.images), heads // cut.heads),
        in_specs=[block] * len(arrays) + [table] * len(tables),
        out_specs=[block] * outputs,
        out_shape=[jax.ShapeDtypeStruct(flat[0].shape, dtype)] * outputs,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",) * 3, vmem_limit_bytes=VMEM_BYTES
        ),
        cost_estimate=pl.CostEstimate(
            # Forward: logits and output; backward: logits again, and four gradients.
            flops=2 * head_dim * products * (2 if outputs == 1 else 5),
            transcendentals=products,
            bytes_accessed=moved + sum(t.size * t.dtype.itemsize for t in tables),
        ),
        interpret=platform() != "tpu",
        name=f"attention_{kernel.__name__.removesuffix('_kernel')}",
    )(*flat, *tables)
    return tuple(rearrange(x, "G b N (H d) -> G b N H d", H=heads) for x in result)


def _tables(rope: RopeTables, cut: Tiling) -> tuple[Float[Array, "T R W"], ...]:
    """Sine and cosine of a slab's rows and lanes; see `_rotate` for the sine's sign."""
    half = rope.sin.shape[-1] // 2
    signed = jnp.concatenate([-rope.sin[..., :half], rope.sin[..., half:]], axis=-1)

    def spread(table: Float[Array, "T N d"]) -> Float[Array, "T R W"]:
        table = jnp.pad(table, ((0, 0), (0, cut.stride - cut.tokens), (0, 0)))
        return repeat(table, "T N d -> T (p N) (h d)", p=cut.packed, h=cut.heads)

    return spread(signed), spread(rope.cos)
