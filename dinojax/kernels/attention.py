"""Full bidirectional attention inside each image."""

import jax
import jax.numpy as jnp

from dinojax.precision import widen
from dinojax.typing import Array, Float


def attention(
    q: Float[Array, "B N H d"], k: Float[Array, "B N H d"], v: Float[Array, "B N H d"]
) -> Float[Array, "B N H d"]:
    """``softmax(q k^T / sqrt(d)) v`` for every image and head (arXiv:1706.03762, Eq. 1).

    Products in the dtype of the inputs, logits and softmax in at least float32.
    """
    scale = q.shape[-1] ** -0.5
    logits = jnp.einsum(
        "bqhd,bkhd->bhqk", q * jnp.asarray(scale, q.dtype), k, preferred_element_type=widen(q).dtype
    )
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)
