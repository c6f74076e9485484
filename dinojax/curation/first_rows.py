"""The rows of all chunks that come first by a number that each has; in the end on every device.

Of equal numbers the row that stands first wins, so that neither chunks nor devices matter.
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dinojax.curation.assign import assign
from dinojax.curation.parts import (
    ROWS,
    WHOLE,
    Chunk,
    Chunks,
    on_parts,
    place_among,
    row_at,
    stacked,
)
from dinojax.mesh import BATCH_AXES
from dinojax.precision import widen
from dinojax.typing import Array, Float


class First(NamedTuple):
    """The least first."""

    value: Float[Array, " w"]
    """Infinite: there is none, because fewer rows than wanted have a finite number."""
    rows: Float[Array, "w D"]


def first_rows(given: Iterable[tuple[Chunk, Float[Array, " n"]]], wanted: int) -> First:
    """`wanted` rows of all chunks, each given with the numbers of its rows; filling has inf."""
    best = None
    for chunk, value in given:
        jax.block_until_ready(best)  # so that no more than two chunks lie on the devices
        some = _of_chunk(chunk, value, wanted)
        best = some if best is None else jax.tree.map(lambda *x: jnp.concatenate(x), best, some)
        best = _first(best, wanted)
    assert best is not None  # there is data
    return best


def farthest_rows(chunks: Chunks, centers: Float[Array, "K D"], wanted: int) -> First:
    """`wanted` rows; their value is the squared distance to their centre, negated."""
    return first_rows(((chunk, _nearness(chunk, centers)) for chunk in chunks()), wanted)


@jax.jit
def _nearness(chunk: Chunk, centers: Float[Array, "K D"]) -> Float[Array, " n"]:
    distance = assign(chunk, centers).distance
    return jnp.where(jnp.arange(len(distance)) < chunk.count, -distance, jnp.inf)


@functools.partial(jax.jit, static_argnames="wanted")
def _first(found: First, wanted: int) -> First:
    """The first `wanted` of them; those that are missing come last."""
    order = jnp.argsort(found.value)[:wanted]  # stable
    filling = (0, wanted - len(order))
    value = jnp.pad(found.value[order], filling, constant_values=jnp.inf)
    return First(value, jnp.pad(found.rows[order], (filling, (0, 0))))


@functools.partial(jax.jit, static_argnames="wanted")
def _of_chunk(chunk: Chunk, value: Float[Array, " n"], wanted: int) -> First:
    def of_part(rows: Float[Array, "n D"], value: Float[Array, " n"]) -> First:
        start = place_among(BATCH_AXES) * len(rows)
        near, at = jax.lax.top_k(-value, min(wanted, len(rows)))
        every, places = stacked(near).reshape(-1), stacked(at + start).reshape(-1)
        near, at = jax.lax.top_k(every, min(wanted, len(every)))
        return First(-near, widen(row_at(rows, places[at])))

    return on_parts(of_part, (ROWS, ROWS), WHOLE)(chunk.rows, value)
