"""The nearest centre of every row, exactly, from fast products.

The label of a row is by definition the first of the centres with the least ``sum((x - c)**2)``,
computed in float32 in this form. It depends on nothing else: not on tiles, devices, or on how
fast products are rounded. But it is computed for few rows. Matrix products give ``|c|**2 - 2 x c``
with an error that norms bound, first in bfloat16 where that is faster. A row whose best centre
leads by more than twice the bound is settled; the others are looked at again in float32 and at
last, at ties, by the definition.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike

from dinojax.curation.parts import (
    CENTER_AXIS,
    CENTERS,
    ROWS,
    Chunk,
    blocks,
    on_parts,
    place_among,
    split_count,
    stacked,
)
from dinojax.kernels.on_device import platform
from dinojax.precision import widen
from dinojax.typing import Array, Float, Int

CENTER_TILE = 4096
"""A device holds the scores of a block of rows with so many centres at a time."""
PACKET, LAST_PACKET = 128, 8
"""Rows of a block that are not settled are looked at again so many at a time: by products, and by
the definition, which few rows need and which costs much more."""
UNIT = 2.0**-24
"""Relative rounding error of float32."""

Dtypes = tuple[DTypeLike, ...]


class Assigned(NamedTuple):
    """Of each row of a chunk; what stands at its filling means nothing."""

    label: Int[Array, " n"]
    distance: Float[Array, " n"]
    """Squared, to the centre of that label."""


class Best(NamedTuple):
    """Of each row, the least value so far, where it is, and the least of the others."""

    value: Float[Array, " r"]
    index: Int[Array, " r"]
    second: Float[Array, " r"]


def fast_dtypes() -> Dtypes:
    """In what products are tried before the definition. Labels are the same with any, and none."""
    return ("float32",) if platform() == "cpu" else ("bfloat16", "float32")


def assign(chunk: Chunk, centers: Float[Array, "K D"], dtypes: Dtypes | None = None) -> Assigned:
    """Label and distance of every row; centres may be split over the tensor axis."""
    return _assign(chunk.rows, centers, fast_dtypes() if dtypes is None else dtypes)


@functools.partial(jax.jit, static_argnames="dtypes")
def _assign(rows: Float[Array, "n D"], centers: Float[Array, "K D"], dtypes: Dtypes) -> Assigned:
    def of_part(rows: Float[Array, "n D"], centers: Float[Array, "k D"]) -> Assigned:
        found = jax.lax.map(lambda block: assign_block(block, centers, dtypes), blocks(rows))
        return jax.tree.map(jnp.ravel, found)

    return on_parts(of_part, (ROWS, CENTERS), ROWS)(rows, shared_evenly(centers))


def shared_evenly(centers: Float[Array, "K D"]) -> Float[Array, "k D"]:
    """With copies of the first at the end, which by definition are never a label."""
    filling = -len(centers) % split_count(CENTER_AXIS)
    return jnp.concatenate([centers, jnp.broadcast_to(centers[0], (filling, centers.shape[1]))])


def assign_block(
    rows: Float[Array, "r D"], centers: Float[Array, "k D"], dtypes: Dtypes
) -> Assigned:
    """Inside `on_parts`, where a device holds k of the centres: labels among all of them."""
    rows = widen(rows)
    label = nearest(rows, centers, dtypes)
    distance = jnp.square(rows - centers[label]).sum(axis=1)
    label += place_among(CENTER_AXIS) * len(centers)
    every = Assigned(stacked(label, CENTER_AXIS), stacked(distance, CENTER_AXIS))
    part = every.distance.argmin(axis=0)[None]
    return Assigned(*(jnp.take_along_axis(x, part, 0)[0] for x in every))


def nearest(
    rows: Float[Array, "r D"], centers: Float[Array, "K D"], dtypes: Sequence[DTypeLike]
) -> Int[Array, " r"]:
    """Labels by definition, once products in `dtypes` have settled what they can."""
    if not dtypes:
        return smallest(
            lambda c: jnp.square(rows[:, None] - c).sum(axis=2), len(rows), centers
        ).index
    best, bound = by_products(rows, centers, dtypes[0])
    open_rows = ~(best.second - best.value > 2 * bound)
    packet = PACKET if dtypes[1:] else LAST_PACKET

    def again(state: tuple[Array, Array]) -> tuple[Array, Array]:
        label, open_rows = state
        at = jnp.nonzero(open_rows, size=packet, fill_value=len(rows))[0]
        part = rows.at[at].get(mode="fill", fill_value=0)
        label = label.at[at].set(nearest(part, centers, dtypes[1:]), mode="drop")
        return label, open_rows.at[at].set(False, mode="drop")

    return jax.lax.while_loop(lambda state: state[1].any(), again, (best.index, open_rows))[0]


def by_products(
    rows: Float[Array, "r D"], centers: Float[Array, "K D"], dtype: DTypeLike
) -> tuple[Best, Float[Array, " r"]]:
    """Squared distances less the row's square, and how wrong each may be.

    Everything is taken from the mean of the centres: what is near to it has small squares, and
    small errors. With x, c so taken and X, C rounded to `dtype`, a product is wrong by
    ``|x c - X C| <= |x - X| |c| + |X| |c - C|``. All float32 roundings together, those of the
    definition too, are below ``(D + 8) 2**-24 (|x| + |c|)**2``.
    """
    middle = centers.mean(axis=0)
    x, c = rows - middle, centers - middle
    near_x, near_c = x.astype(dtype), c.astype(dtype)

    def score(tile: Float[Array, "k D"]) -> Float[Array, "r k"]:
        tile -= middle
        product = jnp.matmul(
            near_x,
            tile.astype(dtype).T,
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=x.dtype,
        )
        return jnp.square(tile).sum(axis=1) - 2 * product

    length = norm(x)
    longest, farthest = norm(c).max(), norm(c - widen(near_c)).max()
    bound = (x.shape[1] + 8) * UNIT * jnp.square(length + longest)
    bound += 2 * (norm(x - widen(near_x)) * longest + length * farthest) * (1 + 2.0**-7)
    return smallest(score, len(rows), centers), bound


def norm(x: Float[Array, "n D"]) -> Float[Array, " n"]:
    return jnp.sqrt(jnp.square(x).sum(axis=1))


def smallest(measure: Callable[[Array], Array], rows: int, centers: Float[Array, "K D"]) -> Best:
    """Of what `measure` makes of tiles of the centres, ``[rows, k]``; of equal ones the first."""
    size = -(-len(centers) // -(-len(centers) // CENTER_TILE))
    padded = jnp.pad(centers, ((0, -len(centers) % size), (0, 0)))
    tiles = rearrange(padded, "(t k) d -> t k d", k=size)
    column = jnp.arange(size)

    def step(best: Best, given: tuple[Array, Array]) -> tuple[Best, None]:
        part, first = given
        values = jnp.where(first + column < len(centers), measure(part), jnp.inf)
        value = values.min(axis=1)
        # On CPUs faster than `argmin` by far.
        index = jnp.where(values == value[:, None], column, size - 1).min(axis=1)
        second = jnp.where(column == index[:, None], jnp.inf, values).min(axis=1)
        closer = value < best.value
        return Best(
            jnp.where(closer, value, best.value),
            jnp.where(closer, first + index, best.index),
            jnp.minimum(jnp.maximum(value, best.value), jnp.minimum(second, best.second)),
        ), None

    none = jnp.full(rows, jnp.inf, centers.dtype)
    start = Best(none, jnp.zeros(rows, jnp.int32), none)
    return jax.lax.scan(step, start, (tiles, size * jnp.arange(len(tiles))))[0]
