"""Attention as XLA computes it on any device: what other backends are compared with."""

import jax
import jax.numpy as jnp
from einops import rearrange

from dinojax.kernels.rope import RopeTables, apply_rope
from dinojax.precision import widen
from dinojax.typing import Array, Float

LONG = 1280
"""Tokens above which logits of all queries are never there at once; 35 x 35 patches fit below."""
BLOCK = 256
"""Queries at a time then."""


def attend(
    q: Float[Array, "G b N H d"],
    k: Float[Array, "G b N H d"],
    v: Float[Array, "G b N H d"],
    rope: RopeTables | None,
) -> Float[Array, "G b N H d"]:
    """See `dinojax.kernels.attention.attention`.

    Of more than `LONG` tokens, as at 768 px, queries are taken in blocks: ``b H N^2`` logits would
    not fit.
    """
    q, k = rotate(q, rope), rotate(k, rope)
    images = [rearrange(x, "G b N H d -> (G b) N H d") for x in (q, k, v)]
    out = (_attend if q.shape[2] <= LONG else _attend_in_blocks)(*images)
    return out.reshape(q.shape)


def rotate(x: Float[Array, "G b N H d"], rope: RopeTables | None) -> Float[Array, "G b N H d"]:
    return x if rope is None else apply_rope(x, rope)


def first_weights(
    q: Float[Array, "G b N H d"], k: Float[Array, "G b N H d"], rope: RopeTables | None
) -> Float[Array, "G b H N"]:
    """How the first token's query spreads over all tokens, per head; float32, rows sum to 1."""
    q, k = rotate(q, rope), rotate(k, rope)
    scale = q.shape[-1] ** -0.5
    logits = jnp.einsum("gbhd,gbkhd->gbhk", widen(q[:, :, 0]) * scale, widen(k))
    return jax.nn.softmax(logits, axis=-1)


def _attend(
    q: Float[Array, "B M H d"], k: Float[Array, "B N H d"], v: Float[Array, "B N H d"]
) -> Float[Array, "B M H d"]:
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    # Each head's rows together first: a processor multiplies them as they lie, forwards and back.
    q, k, v = (rearrange(x, "B N H d -> B H N d") for x in (q, k, v))
    logits = jnp.matmul(q, k.mT, preferred_element_type=widen(q).dtype)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return rearrange(weights @ v, "B H M d -> B M H d")


def _attend_in_blocks(
    q: Float[Array, "B N H d"], k: Float[Array, "B N H d"], v: Float[Array, "B N H d"]
) -> Float[Array, "B N H d"]:
    """The same, block after block; the backward pass computes a block's weights again."""
    tokens = q.shape[1]
    count, size = query_blocks(tokens)
    padded = jnp.pad(q, ((0, 0), (0, count * size - tokens), (0, 0), (0, 0)))
    blocks = rearrange(padded, "B (n m) H d -> n B m H d", n=count)
    # Wide outside the loop, so that their gradients are summed over blocks wide.
    keys, values = widen(k), widen(v)

    @jax.checkpoint
    def attend(block: Float[Array, "B m H d"]) -> Float[Array, "B m H d"]:
        return _attend(block, keys.astype(k.dtype), values.astype(v.dtype))

    out = jax.lax.map(attend, blocks)
    return rearrange(out, "n B m H d -> B (n m) H d")[:, :tokens]


def query_blocks(tokens: int) -> tuple[int, int]:
    """(number of blocks, queries in each), the latter a multiple of 8; one block up to `LONG`."""
    if tokens <= LONG:
        return 1, tokens
    count = -(-tokens // BLOCK)
    size = -(-tokens // count)
    return count, size + -size % 8
