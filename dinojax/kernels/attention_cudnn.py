"""Attention by cuDNN, through `jax.nn.dot_product_attention`, after RoPE by XLA."""

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike

from dinojax.kernels.rope import RopeTables, apply_rope
from dinojax.typing import Array, Float

DTYPES = (jnp.bfloat16, jnp.float16)

Heads = Float[Array, "G b N H d"]


def supports(q_shape: tuple[int, ...], dtype: DTypeLike, capability: str) -> str | None:
    """Why cuDNN cannot take queries of this shape on a GPU of this capability, or None.

    The rules of `jax.nn.dot_product_attention` (jax 0.10.2); those of cuDNN start at Ampere.
    """
    major, width = int(capability.split(".")[0]), q_shape[-1]
    widest = 256 if major >= 9 else 128
    if major < 8:
        return f"compute capability {capability} is below 8.0 (Ampere)"
    if width % 8 or width > widest:
        return f"head width {width} is no multiple of 8 up to {widest}"
    if jnp.dtype(dtype) not in DTYPES:
        return f"{jnp.dtype(dtype).name} is neither bfloat16 nor float16"
    return None


def cudnn(q: Heads, k: Heads, v: Heads, rope: RopeTables | None) -> Heads:
    """``softmax(turn(q) turn(k)^T / sqrt(d)) v`` for every image and head, on CUDA only.

    To differentiate an odd number of tokens, as a square image with its CLS token has, jax (0.10.2
    to 0.12.0) refuses: it takes a placeholder for a bias, which would have to be even. So these get
    one more token, with which no query is paired.
    """
    if rope is not None:
        q, k = apply_rope(q, rope), apply_rope(k, rope)
    images = [rearrange(x, "G b N H d -> (G b) N H d") for x in (q, k, v)]
    tokens, lengths = q.shape[2], None
    if tokens % 2:
        images = [jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in images]
        lengths = jnp.full(len(images[0]), tokens, jnp.int32)
    out = jax.nn.dot_product_attention(
        *images, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return out[:, :tokens].reshape(q.shape)
