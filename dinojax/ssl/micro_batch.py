"""The batch in parts that are computed one after another."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dinojax.mesh import current_batch_shards, split_batch
from dinojax.typing import Array, Int, PyTree


class MicroBatch(NamedTuple):
    """Number `index` of `count` equal parts of a batch, each with a share of every device's images.

    What has one entry per image or per group lies on the devices in its order, so each device cuts
    its own entries and nothing moves between them. Which groups make up a part depends on the mesh;
    what happens to a group does not.
    """

    index: int | Int[Array, ""] = 0
    count: int = 1

    def of(self, x: Array) -> Array:
        """``[B, ..]`` to ``[B / count, ..]``; `count` times the batch shards must divide B."""
        if self.count == 1:
            return x
        parts = x.reshape(current_batch_shards(), self.count, -1, *x.shape[1:])
        part = jax.lax.dynamic_index_in_dim(parts, self.index, axis=1, keepdims=False)
        return split_batch(part.reshape(-1, *x.shape[1:]))


WHOLE_BATCH = MicroBatch()


def mean_over(function: Callable[[PyTree], PyTree], xs: PyTree) -> PyTree:
    """Of its values for all entries of the leading axis, which it sees one after another."""
    count = len(jax.tree.leaves(xs)[0])
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], xs))
    zeros = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), shapes)

    def add(sums: PyTree, x: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, sums, function(x)), None

    return jax.tree.map(lambda x: x / count, jax.lax.scan(add, zeros, xs)[0])
