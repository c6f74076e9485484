"""Greedy k-means++ (Arthur and Vassilvitskii, 2007, section 4): where k-means begins.

Balanced sampling stands or falls with it: from random rows, dense concepts get most of the centres
and Lloyd's iterations do not move them away.

Each centre is the best of ``2 + ln K`` rows that are drawn with odds of their weight times the
squared distance to the nearest centre so far. Rows stay where they are; what devices exchange per
draw is a number per block of rows. For up to some 20,000 centres; `parallel_seeding` takes more.
"""

import functools
import math

import jax
import jax.numpy as jnp

from dinojax.curation.parts import (
    BLOCK,
    ROWS,
    WHOLE,
    Chunk,
    Chunks,
    block_sums,
    blocks,
    on_parts,
    own_valid,
    row_at,
)
from dinojax.precision import widen
from dinojax.typing import Array, Float, Int, Key


def greedy_seeds(chunks: Chunks, count: int, key: Key) -> Float[Array, "K D"]:
    """By `plus_plus`.

    Raises:
        ValueError: the rows come in more than one chunk.
    """
    every = list(chunks())
    if len(every) > 1:
        raise ValueError(
            f"k-means++ needs all rows at once, and they come in {len(every)} chunks; use larger "
            "chunks or parallel_seeds"
        )
    return plus_plus(every[0], count, key)


def plus_plus(
    chunk: Chunk, count: int, key: Key, weights: Float[Array, " n"] | None = None
) -> Float[Array, "K D"]:
    """`count` of the rows, far from each other. Copies of drawn rows where too few differ."""
    weights = jnp.ones(len(chunk.rows)) if weights is None else weights
    return _plus_plus(chunk, weights, key, count)


@functools.partial(jax.jit, static_argnames="count")
def _plus_plus(
    chunk: Chunk, weights: Float[Array, " n"], key: Key, count: int
) -> Float[Array, "K D"]:
    candidates = 2 + int(math.log(count))

    def of_part(
        rows: Float[Array, "n D"], valid_count: Array, weights: Float[Array, " n"]
    ) -> Array:
        parts = blocks(rows)
        weights = blocks(jnp.where(own_valid(len(rows), valid_count), weights, 0))

        def squares(centers: Float[Array, "m D"]) -> Float[Array, "b m r"]:
            def of_block(block: Float[Array, "r D"]) -> Float[Array, "m r"]:
                return jax.vmap(lambda c: jnp.square(widen(block) - c).sum(axis=1))(centers)

            return jax.lax.map(of_block, parts)

        def add(step: Int[Array, ""], state: tuple[Array, Array]) -> tuple[Array, Array]:
            centers, distance = state
            shares = jax.random.uniform(jax.random.fold_in(key, step), (candidates,))
            drawn = widen(row_at(rows, draw(distance * weights, shares)))
            closer = jnp.minimum(distance[:, None], squares(drawn))
            best = block_sums(closer * weights[:, None]).sum(axis=0).argmin()
            return centers.at[step].set(drawn[best]), closer[:, best]

        first = draw(weights, jax.random.uniform(jax.random.fold_in(key, 0), (1,)))
        center = widen(row_at(rows, first))
        centers = jnp.zeros((count, rows.shape[1]), center.dtype).at[0].set(center[0])
        return jax.lax.fori_loop(1, count, add, (centers, squares(center)[:, 0]))[0]

    return on_parts(of_part, (ROWS, WHOLE, ROWS), WHOLE)(chunk.rows, chunk.count, weights)


def draw(odds: Float[Array, "b r"], shares: Float[Array, " m"]) -> Int[Array, " m"]:
    """Inside `on_parts`: rows at these `shares`, 0..1, of the sum of all `odds`.

    A row without odds is drawn only if no row has any.
    """
    sums = block_sums(odds)
    block, rest = jax.vmap(reach, (None, 0))(sums, shares * sums.sum())
    row, _ = jax.vmap(reach)(row_at(odds, block), rest)
    return block * BLOCK + row


def reach(
    steps: Float[Array, " m"], goal: Float[Array, ""]
) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """The first of the `steps` that together exceed `goal`, and what is left to go in it."""
    ends = jnp.cumsum(steps)
    at = jnp.searchsorted(ends, goal, side="right")
    at = jnp.minimum(at, len(steps) - 1)
    # Sums are rounded: the goal can lie behind all of them, or in a step that is none.
    at = jnp.where(steps[at] > 0, at, steps.argmax())
    return at, goal - (ends[at] - steps[at])
