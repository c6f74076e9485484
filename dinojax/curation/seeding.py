"""Greedy k-means++ (Arthur and Vassilvitskii, 2007, section 4): where k-means begins.

Balanced sampling stands or falls with it: from random rows, dense concepts get most of the centres
and Lloyd's iterations do not move them away.

Each centre is the best of ``2 + ln K`` rows that are drawn with odds of their weight times the
squared distance to the nearest centre so far. Rows stay where they are; what devices exchange per
draw is a number per block of rows. For up to some 20,000 centres; `parallel_seeding` takes more.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
    to_host,
)
from dinojax.precision import widen
from dinojax.typing import Array, Float, Int, Key

PICKS = 64
"""In a step."""


class Seeding(NamedTuple):
    """All there is to store between two steps of seeding."""

    centers: Float[Array, "K D"]
    """Those from `picked` on are still to come; none at all before the first step of k-means++."""
    distance: Float[Array, " n"]
    """Squared, of each row that they are picked from, to the nearest; over the devices, with zeros
    for what fills the rows up there. k-means++ alone has it."""
    picked: int | Int[Array, ""]
    candidates: Float[Array, "c D"]
    """Of k-means||, which picks from these; k-means++ has none."""


def greedy_seeds(
    chunks: Chunks, count: int, key: Key, start: Seeding | None = None
) -> Iterator[Seeding]:
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
    yield from plus_plus(every[0], count, key, start=start)


def plus_plus(
    chunk: Chunk,
    count: int,
    key: Key,
    weights: Float[Array, " n"] | None = None,
    start: Seeding | None = None,
) -> Iterator[Seeding]:
    """Steps to `count` of the rows, far from each other. Copies of drawn rows where too few differ.

    Args:
        start: goes on after any of these steps, bit for bit.
    """
    weights = jnp.ones(len(chunk.rows)) if weights is None else weights
    picked = 0 if start is None else int(start.picked)
    before = ()
    if start is not None and picked:
        own = np.asarray(start.distance)[: int(chunk.count)]
        filling = len(chunk.rows) - len(own)  # of as many devices as there are now
        before = start.centers, np.pad(own, (0, filling))
    while picked < count:
        stop = min(picked + PICKS, count)
        before = centers, distance = _pick(chunk, weights, key, before, picked, stop, count)
        picked = stop
        yield Seeding(centers, distance, picked, centers[:0])


def on_host(seeding: Seeding) -> Seeding:
    """To be stored. Of several processes all make this call."""
    return seeding._replace(distance=to_host(seeding.distance)) if seeding.picked else seeding


@functools.partial(jax.jit, static_argnames="count")
def _pick(
    chunk: Chunk,
    weights: Float[Array, " n"],
    key: Key,
    before: tuple[()] | tuple[Float[Array, "K D"], Float[Array, " n"]],
    picked: int | Int[Array, ""],
    stop: int | Int[Array, ""],
    count: int,
) -> tuple[Float[Array, "K D"], Float[Array, " n"]]:
    """Centres and distances, as they were `before`, after further picks up to `stop`."""
    candidates = 2 + int(math.log(count))

    def of_part(
        rows: Float[Array, "n D"], valid_count: Array, weights: Float[Array, " n"], *before: Array
    ) -> tuple[Array, Array]:
        parts, valid = blocks(rows), own_valid(len(rows), valid_count)
        weights = blocks(jnp.where(valid, weights, 0))

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

        if before:
            state = before[0], blocks(before[1])
        else:
            first = draw(weights, jax.random.uniform(jax.random.fold_in(key, 0), (1,)))
            center = widen(row_at(rows, first))
            centers = jnp.zeros((count, rows.shape[1]), center.dtype).at[0].set(center[0])
            state = centers, squares(center)[:, 0]
        centers, distance = jax.lax.fori_loop(jnp.maximum(picked, 1), stop, add, state)
        return centers, jnp.where(valid, jnp.ravel(distance), 0)

    given = ROWS, WHOLE, ROWS, *(WHOLE, ROWS)[: len(before)]
    return on_parts(of_part, given, (WHOLE, ROWS))(chunk.rows, chunk.count, weights, *before)


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
