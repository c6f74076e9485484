"""Lloyd's k-means of rows in chunks, on the mesh; the result is the same bits on any mesh.

An iteration is a fold: `add` each chunk to `Totals`, then `update`. Chunks may come from files, so
the data need not fit the devices. The squared distance is Euclidean, as in the released code of
arXiv:2405.15613; on unit rows it orders centres as the cosine to their directions nearly does.

Labels are exact (`assign`) and sums are integers (`exact_sums`). Therefore neither the number of
devices nor tiles, nor how rows are divided into chunks, nor a stop in between changes a centre.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dinojax.curation import exact_sums
from dinojax.curation.assign import (
    assign_block,
    fast_dtypes,
    shared_evenly,
)
from dinojax.curation.first_rows import First, farthest_rows
from dinojax.curation.parts import (
    BLOCK,
    CENTER_AXIS,
    CENTERS,
    ROWS,
    WHOLE,
    Chunk,
    Chunks,
    blocks,
    on_parts,
    own_valid,
    place_among,
    total,
)
from dinojax.mesh import gather
from dinojax.precision import widen
from dinojax.typing import Array, Float, Int


class State(NamedTuple):
    """All there is to store between two iterations."""

    centers: Float[Array, "K D"]
    scale: Float[Array, ""]
    """A power of two above every coordinate of the rows."""
    inertia: Float[Array, ""]
    """Sum of squared distances to the centres before the last update; infinite before the first."""
    gain: Float[Array, ""]
    """The share by which inertia fell in the last iteration, infinite before the second and where
    a centre was reseeded; above 0 unless all centres stayed."""
    iteration: Int[Array, ""]


class Totals(NamedTuple):
    """What an iteration has summed so far, by centre."""

    sums: exact_sums.Digits
    """``[K, D + 1]``: of the coordinates and, in the last column, of squared distances."""
    counts: Int[Array, " K"]


def begin(centers: Float[Array, "K D"], largest: Float[Array, ""]) -> State:
    """Before the first iteration; `largest` of `largest_coordinate`."""
    infinite = jnp.asarray(jnp.inf, centers.dtype)
    start = jnp.zeros((), jnp.int32)
    return State(centers, exact_sums.power_above(largest), infinite, infinite, start)


@jax.jit
def largest_coordinate(chunk: Chunk) -> Float[Array, ""]:
    """Without its sign."""
    return widen(jnp.abs(chunk.rows).max())


def lloyd(
    chunks: Chunks,
    state: State,
    iterations: int,
    *,
    tolerance: float = 0.0,
    reseed_empty: bool = False,
) -> Iterator[State]:
    """The state after each further iteration, until it is the `iterations`-th from the beginning.

    Ends earlier once the inertia falls by no more than `tolerance` of itself, and where no centre
    moves. Centres without rows stay where they are, or are `reseeded` after each iteration.
    """
    while int(state.iteration) < iterations and float(state.gain) > tolerance:
        totals = no_totals(state.centers)
        for chunk in chunks():  # the next is read while one is added, and no further
            totals = add(jax.block_until_ready(totals), chunk, state)
        state = update(state, totals)
        if reseed_empty:
            state = reseeded(chunks, state, totals.counts)
        yield state


def no_totals(centers: Float[Array, "K D"]) -> Totals:
    count, width = centers.shape
    return Totals(exact_sums.zeros((count, width + 1)), jnp.zeros(count, jnp.int32))


@functools.partial(jax.jit, donate_argnames="totals")
def add(totals: Totals, chunk: Chunk, state: State) -> Totals:
    """`totals` and what `chunk` brings."""
    scales, clusters = column_scales(state), len(state.centers)

    def of_part(rows: Float[Array, "n D"], count: Array, centers: Float[Array, "k D"]) -> Totals:
        first = place_among(CENTER_AXIS) * len(centers)

        def of_block(totals: Totals, given: tuple[Array, Array, Array]) -> tuple[Totals, None]:
            number, rows, valid = given
            label, distance = assign_block(rows, centers, fast_dtypes())
            own = valid & (label >= first) & (label < first + len(centers))
            segment = jnp.where(own, label - first, len(centers))
            values = jnp.concatenate([widen(rows), distance[:, None]], axis=1)
            sums = exact_sums.add_rows(totals.sums, values, scales, segment)
            full = number % (exact_sums.ROWS // BLOCK) == exact_sums.ROWS // BLOCK - 1
            sums = jax.lax.cond(full, exact_sums.carried, lambda sums: sums, sums)
            return Totals(sums, totals.counts.at[segment].add(1, mode="drop")), None

        parts = blocks(rows)
        given = jnp.arange(len(parts)), parts, blocks(own_valid(len(rows), count))
        own, _ = jax.lax.scan(of_block, no_totals(centers), given)
        return total(own._replace(sums=exact_sums.carried(own.sums)))

    run = on_parts(of_part, (ROWS, WHOLE, CENTERS), CENTERS)
    found = run(chunk.rows, chunk.count, shared_evenly(state.centers))
    found = jax.tree.map(lambda x: x[:clusters], found)
    sums = exact_sums.added(totals.sums, exact_sums.carried(found.sums))
    return Totals(sums, totals.counts + found.counts)


@jax.jit
def update(state: State, totals: Totals) -> State:
    """Centres become the means of their rows; one without rows stays where it is."""
    sums = exact_sums.to_float(totals.sums, column_scales(state))
    means = sums[:, :-1] / jnp.maximum(totals.counts, 1)[:, None]
    centers = jnp.where(totals.counts[:, None] > 0, means, state.centers)
    inertia = gather(sums[:, -1]).sum()  # in one order, however the centres are split
    # Near the end the inertia, which is rounded, may seem not to fall.
    least = jnp.finfo(inertia.dtype).tiny
    gain = jnp.where(jnp.isinf(state.inertia), jnp.inf, 1 - inertia / state.inertia)
    gain = jnp.where((centers == state.centers).all(), 0, jnp.maximum(gain, least))
    return State(centers, state.scale, inertia, gain, state.iteration + 1)


def reseeded(chunks: Chunks, state: State, counts: Int[Array, " K"]) -> State:
    """Centres that had no rows are moved to the rows that are farthest from their centres, one to
    each; of equally far rows the first is taken, and none that lies on its centre.

    One more pass over the rows, if there are such centres.
    """
    empty = int((counts == 0).sum())
    if not empty:
        return state
    # A power of two: few programs to compile.
    return _moved(
        state, counts, farthest_rows(chunks, state.centers, 2 ** (empty - 1).bit_length())
    )


@jax.jit
def _moved(state: State, counts: Int[Array, " K"], far: First) -> State:
    none = len(counts)
    empty = jnp.nonzero(counts == 0, size=len(far.value), fill_value=none)[0]
    at = jnp.where(far.value < 0, empty, none)
    centers = state.centers.at[at].set(far.rows, mode="drop")
    gain = jnp.where((at < none).any(), jnp.inf, state.gain)
    return state._replace(centers=centers, gain=gain)


def column_scales(state: State) -> Float[Array, " C"]:
    """Of coordinates, and of the squared distance between any two rows."""
    width = state.centers.shape[1]
    widest = exact_sums.power_above(4 * width * jnp.square(state.scale))
    return jnp.append(jnp.full(width, state.scale), widest)
