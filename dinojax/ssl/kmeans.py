"""Spherical k-means (Dhillon and Modha, 2001) from k-means++ (Arthur and Vassilvitskii, 2007).

Every device does all of it, so centres do not depend on the mesh. No sum is a scatter, whose order
would be open on GPUs.
"""

import functools

import jax
import jax.numpy as jnp

from dinojax.precision import unit_rows
from dinojax.typing import Array, Float, Int, Key

LOGITS = 2**26
"""Similarities that exist at a time."""

_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def spherical_kmeans(
    rows: Float[Array, "N F"], count: int, key: Key, *, iterations: int = 10
) -> Float[Array, "C F"]:
    """`count` unit vectors, each the direction of the sum of the unit `rows` nearest to it.

    A centre that loses all its rows stays where it is.

    Raises:
        ValueError: more centres than rows.
    """
    if not 1 <= count <= len(rows):
        raise ValueError(f"count={count} centres need as many rows, and there are {len(rows)}")
    pieces = -(-len(rows) // max(LOGITS // count, 1))
    chunk = -(-len(rows) // pieces)
    # Rows of zeros fill the last piece up. They add nothing to the sums.
    padded = jnp.pad(rows, ((0, pieces * chunk - len(rows)), (0, 0)))
    padded = padded.reshape(pieces, chunk, -1)

    def improve(_, centers: Float[Array, "C F"]) -> Float[Array, "C F"]:
        def add(sums, part):
            nearest = _dot(part, centers.T).argmax(axis=1)
            members = nearest[:, None] == jnp.arange(count)
            return sums + _dot(members.T.astype(part.dtype), part), None

        sums, _ = jax.lax.scan(add, jnp.zeros_like(centers), padded)
        some = jnp.abs(sums).max(axis=1, keepdims=True) > 0
        return jnp.where(some, unit_rows(sums), centers)

    return jax.lax.fori_loop(0, iterations, improve, rows[plus_plus(rows, count, key)])


def plus_plus(rows: Float[Array, "N F"], count: int, key: Key) -> Int[Array, " C"]:
    """Indices of `count` of the unit `rows`, far from each other.

    After the first each is drawn with odds ``1 - cos`` to the nearest of those before it, which is
    half the squared distance.
    """
    first, rest = jax.random.split(key)

    def add(carry, key: Key):
        distance, last = carry
        distance = jnp.minimum(distance, jnp.maximum(1 - _dot(rows, rows[last]), 0))
        distance = distance.at[last].set(0)
        ladder = jnp.cumsum(distance)
        place = jax.random.uniform(key, dtype=rows.dtype) * ladder[-1]
        index = jnp.minimum(jnp.searchsorted(ladder, place, side="right"), len(rows) - 1)
        return (distance, index), index

    index = jax.random.randint(first, (), 0, len(rows))
    start = (jnp.full(len(rows), 2, rows.dtype), index)
    _, others = jax.lax.scan(add, start, jax.random.split(rest, count - 1))
    return jnp.concatenate([index[None], others])
