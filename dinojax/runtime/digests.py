"""Digests of arrays: 64 bits per leaf, computed where the array lies, the same on every mesh.

Each element's bits, together with its position, go through a mixing function that maps different
words to different words (the finaliser of MurmurHash3); the results are added in uint32. Integer
sums do not depend on their order, so neither do digests on shards. One changed element always shows
and several stay unseen in one of 2**64 cases: a guard against damage, not against forgery.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dinojax import trees
from dinojax.mesh import gather
from dinojax.typing import Array, PyTree

SEEDS = (0x9E3779B9, 0x85EBCA77)
"""Of the two 32-bit halves."""


def digests(tree: PyTree) -> dict[str, str]:
    """16 hex digits for each leaf, by its path. Waits for the leaves."""
    leaves = trees.flatten(tree)
    words = np.asarray(_digest_leaves(list(leaves.values())))
    return {path: f"{high:08x}{low:08x}" for path, (high, low) in zip(leaves, words, strict=True)}


@jax.jit
def _digest_leaves(leaves: list[Array]) -> Array:
    """``[leaves, 2]`` words, whole on every device."""
    return gather(jnp.stack([_digest(leaf) for leaf in leaves]))


def _digest(leaf: Array) -> Array:
    words = _words(leaf)
    position = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        # Wraps around beyond 2**32 elements, on all meshes alike.
        position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(
            jnp.uint32, words.shape, axis
        )
    return jnp.stack(
        [_mix(_mix(position + jnp.uint32(seed)) ^ words).sum(dtype=jnp.uint32) for seed in SEEDS]
    )


def _words(leaf: Array) -> Array:
    """The bits as uint32, with one more axis where an element has more of them."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    bits = min(leaf.dtype.itemsize * 8, 32)
    return jax.lax.bitcast_convert_type(leaf, f"uint{bits}").astype(jnp.uint32)


def _mix(x: Array) -> Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
