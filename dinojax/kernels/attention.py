"""Full bidirectional attention inside each image."""

import jax
import jax.numpy as jnp
from einops import rearrange

from dinojax.precision import widen
from dinojax.typing import Array, Float

LONG = 1280
"""Tokens above which logits of all queries are never there at once; 35 x 35 patches fit below."""
BLOCK = 256
"""Queries at a time then."""


def attention(
    q: Float[Array, "B N H d"], k: Float[Array, "B N H d"], v: Float[Array, "B N H d"]
) -> Float[Array, "B N H d"]:
    """``softmax(q k^T / sqrt(d)) v`` for every image and head (arXiv:1706.03762, Eq. 1).

    Products in the dtype of the inputs, logits and softmax in at least float32. Of more than `LONG`
    tokens, as at 768 px, queries are taken in blocks: ``B H N^2`` logits would not fit.
    """
    return _attend(q, k, v) if q.shape[1] <= LONG else _attend_in_blocks(q, k, v)


def first_weights(q: Float[Array, "B N H d"], k: Float[Array, "B N H d"]) -> Float[Array, "B H N"]:
    """How the first token's query spreads over all tokens, per head; float32, rows sum to 1."""
    scale = q.shape[-1] ** -0.5
    logits = jnp.einsum("bhd,bkhd->bhk", widen(q[:, 0]) * scale, widen(k))
    return jax.nn.softmax(logits, axis=-1)


def _attend(
    q: Float[Array, "B M H d"], k: Float[Array, "B N H d"], v: Float[Array, "B N H d"]
) -> Float[Array, "B M H d"]:
    scale = q.shape[-1] ** -0.5
    logits = jnp.einsum(
        "bqhd,bkhd->bhqk", q * jnp.asarray(scale, q.dtype), k, preferred_element_type=widen(q).dtype
    )
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


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
