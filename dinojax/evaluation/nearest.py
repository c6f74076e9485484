"""The nearest rows of a bank by cosine, exactly, with the bank split over the devices."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from dinojax.mesh import BATCH_AXES, current_batch_shards, split_batch
from dinojax.precision import unit_rows
from dinojax.typing import Array, Float, Int

CHUNK = 256
"""Queries at a time: the similarities held are ``[CHUNK, n]`` over all devices."""


class Neighbours(NamedTuple):
    """Of each query, the nearest first; of equally near ones the first in the bank."""

    similarity: Float[Array | np.ndarray, "m k"]
    """Cosines."""
    index: Int[Array | np.ndarray, "m k"]


def nearest(
    bank: Float[Array | np.ndarray, "n D"], queries: Float[Array | np.ndarray, "m D"], k: int
) -> Neighbours:
    """The `k` nearest rows of `bank`; float32 products are exact.

    Under `jax.set_mesh` every device holds and searches its part of the bank for all queries, and
    only the best of each part are compared.
    """
    # Here, not in the program: it gives each device all of what it cannot split evenly.
    filling = -len(bank) % current_batch_shards()
    padded = np.pad(np.asarray(bank), ((0, filling), (0, 0)))
    return search(padded, queries, k=k, count=len(bank))


@functools.partial(jax.jit, static_argnames="k")
def search(
    padded: Float[Array | np.ndarray, "n D"],
    queries: Float[Array | np.ndarray, "m D"],
    *,
    k: int,
    count: int | Int[Array, ""],
) -> Neighbours:
    """`nearest` among the first `count` rows, of as many as devices can share."""
    shards = current_batch_shards()
    rows = len(padded) // shards
    bank = split_batch(unit_rows(jnp.asarray(padded)))
    place = jnp.arange(shards * rows)

    def of_part(part: Float[Array, "r D"], place: Int[Array, " r"], queries: Array) -> Neighbours:
        def of_query(query: Float[Array, " D"]) -> Neighbours:
            cosines = jnp.matmul(part, query, precision=jax.lax.Precision.HIGHEST)
            best, at = jax.lax.top_k(jnp.where(place < count, cosines, -jnp.inf), min(k, rows))
            return Neighbours(best, place[at])

        return jax.lax.map(of_query, queries, batch_size=CHUNK)

    queries = unit_rows(jnp.asarray(queries))
    if shards > 1:
        # The partitioner would gather all similarities for `top_k`, which it does not split.
        own, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
        of_part = jax.shard_map(
            of_part, in_specs=(own, own, whole), out_specs=PartitionSpec(None, BATCH_AXES)
        )
    best = of_part(bank, place, queries)
    # Parts are in the bank's order, and so equally near rows stay in it.
    similarity, at = jax.lax.top_k(best.similarity, k)
    return Neighbours(similarity, jnp.take_along_axis(best.index, at, axis=1))
