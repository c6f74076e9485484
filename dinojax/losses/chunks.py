"""Rows of a sharded batch in chunks: some of every device's at a time, so that nothing moves.

Rows lie as ``[Z, R, ..]``, Z the parts that the batch is split into over devices, and chunks are
cut from R. Sums over rows are carried per part and added over Z after the last chunk: one reduction
between devices, however many chunks.
"""

import math

import jax
import jax.numpy as jnp
from einops import rearrange

from dinojax.mesh import current_batch_shards, split_batch
from dinojax.typing import Array, PyTree


def per_shard(pattern: str, x: Array) -> Array:
    """`x` rearranged to ``[Z, R, ..]``; Z comes from the mesh in use and is 1 without one."""
    return split_batch(rearrange(x, pattern, Z=current_batch_shards()))


def to_chunks(tree: PyTree, size: int | None) -> PyTree:
    """``[Z, R, ..]`` to ``[n, Z, r, ..]`` with ``r <= size`` (at least 1; None: all rows).

    Chunks are as equal as possible; what is missing in the last ones are rows of zeros, of which
    there are fewer than chunks.
    """
    rows = jax.tree.leaves(tree)[0].shape[1]
    count = math.ceil(rows / (rows if size is None else max(size, 1)))
    length = math.ceil(rows / count)

    def split(x: Array) -> Array:
        padding = [(0, 0), (0, count * length - rows), *[(0, 0)] * (x.ndim - 2)]
        return split_batch(rearrange(jnp.pad(x, padding), "Z (n r) ... -> n Z r ...", n=count), 1)

    return jax.tree.map(split, tree)
