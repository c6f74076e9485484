"""k-means|| (arXiv:1203.6402): where k-means begins, in a few passes for any number of centres.

In each round every row not yet a candidate takes part in a lottery whose odds are its squared
distance to the nearest candidate, and `OVERSAMPLING` times `count` rows win at once. In the end
candidates count as often as rows are nearest to them, and k-means++ chooses among these.

Against the paper: a round has a fixed number of winners, not one that is fixed on average. Each row
draws an exponential waiting time, keyed by its place in the data, at the rate of its odds, and the
earliest win (Efraimidis and Spirakis, 2006). So winners depend neither on chunks nor on devices.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.curation.assign import Assigned, assign
from dinojax.curation.first_rows import First, first_rows
from dinojax.curation.parts import (
    ROWS,
    WHOLE,
    Chunk,
    Chunks,
    each,
    on_parts,
    own_valid,
    place,
    place_among,
)
from dinojax.curation.seeding import Seeding, plus_plus
from dinojax.mesh import BATCH_AXES
from dinojax.prng import slot_keys
from dinojax.typing import Array, Float, Int, Key

ROUNDS, OVERSAMPLING = 5, 2
MOST_ROWS = 2**31 - 1
"""Their places are int32."""


def parallel_seeds(
    chunks: Chunks, count: int, key: Key, start: Seeding | None = None
) -> Iterator[Seeding]:
    """Steps to `count` of the rows, far from each other. Copies of drawn rows where too few differ.

    There may be up to `MOST_ROWS`.

    Args:
        start: goes on after any of these steps, bit for bit, at the price of one more pass.
    """
    if start is None:
        candidates = lottery(chunks(), None, 1, jax.random.fold_in(key, 0)).rows
    else:
        candidates = start.candidates
    nearest = functools.partial(assign, centers=candidates)
    first = each(lambda chunk: (nearest(chunk), chunk.count), chunks)
    found, counts = map(list, zip(*first, strict=True))
    wanted = OVERSAMPLING * count
    for number in range(1 + len(candidates) // wanted, ROUNDS + 1):
        odds = [one.distance for one in found]
        winners = lottery(chunks(), odds, wanted, jax.random.fold_in(key, number))
        # Where there are too few, copies of the first candidate, to which no row is nearer.
        drawn = jnp.isfinite(winners.value)[:, None]
        new = jnp.where(drawn, winners.rows, candidates[0])
        for at, one in enumerate(each(functools.partial(assign, centers=new), chunks)):
            found[at] = closer(found[at], one, len(candidates))
        candidates = jnp.concatenate([candidates, new])
        yield Seeding(candidates[:0], winners.value[:0], 0, candidates)
    pool = place(np.asarray(candidates))
    weights = jnp.zeros(len(pool.rows))
    for one, valid in zip(found, counts, strict=True):
        weights += members(one.label, valid, len(weights))
    for step in plus_plus(pool, count, jax.random.fold_in(key, ROUNDS + 1), weights, start):
        yield step._replace(candidates=candidates)


def lottery(
    chunks: Iterable[Chunk], odds: Sequence[Float[Array, " n"]] | None, wanted: int, key: Key
) -> First:
    """`wanted` rows of all chunks, by their waiting times; None: with equal odds."""

    def given() -> Iterator[tuple[Chunk, Float[Array, " n"]]]:
        before = 0
        for number, chunk in enumerate(chunks):
            own = jnp.ones(len(chunk.rows)) if odds is None else odds[number]
            yield chunk, waiting_time(chunk, own, before, key)
            before += int(chunk.count)

    return first_rows(given(), wanted)


@jax.jit
def waiting_time(
    chunk: Chunk, odds: Float[Array, " n"], before: Int[Array, ""] | int, key: Key
) -> Float[Array, " n"]:
    """The logarithm of that of each row of a chunk, which `before` rows precede."""

    def of_part(
        rows: Float[Array, "n D"], count: Array, odds: Float[Array, " n"], before: Array
    ) -> Float[Array, " n"]:
        first = place_among(BATCH_AXES) * len(rows)
        keys = slot_keys(key, jnp.arange(len(rows)) + first + before)
        waiting = jax.vmap(jax.random.exponential)(keys)
        odds = jnp.where(own_valid(len(rows), count), odds, 0)
        # In logarithms: quotients by small odds would be infinite.
        return jnp.where(odds > 0, jnp.log(waiting) - jnp.log(odds), jnp.inf)

    given = (ROWS, WHOLE, ROWS, WHOLE)
    return on_parts(of_part, given, ROWS)(chunk.rows, chunk.count, odds, jnp.asarray(before))


@jax.jit
def closer(before: Assigned, new: Assigned, first: Int[Array, ""] | int) -> Assigned:
    """The nearest of the candidates before and of new ones, whose labels count from `first`."""
    nearer = new.distance < before.distance
    return Assigned(
        jnp.where(nearer, new.label + first, before.label),
        jnp.where(nearer, new.distance, before.distance),
    )


@functools.partial(jax.jit, static_argnames="candidates")
def members(label: Int[Array, " n"], count: Int[Array, ""], candidates: int) -> Float[Array, " w"]:
    """How many rows of a chunk are nearest to each candidate."""
    valid = jnp.arange(len(label)) < count
    return jax.ops.segment_sum(valid.astype(jnp.int32), label, candidates).astype(float)
