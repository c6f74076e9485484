"""Rows that lie over the devices, and what the devices tell each other about them.

Everything is computed by blocks of `BLOCK` rows, and what is summed over rows in floating point is
summed within blocks first. A program for a block is the same wherever it lies, so that no result
depends on the number of devices. Filling makes whole blocks, equally many for every device.

Without a mesh in use (`jax.set_mesh`) everything lies on one device and nothing is exchanged.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec

from dinojax.mesh import BATCH_AXES, batch_sharding, current_batch_shards
from dinojax.typing import Array, Bool, Float, Int, PyTree, Shaped

BLOCK = 1024
"""Rows at a time on a device."""
CENTER_AXIS = "tensor"
"""Centres are split over this axis of the mesh."""
ROWS, CENTERS, WHOLE = PartitionSpec(BATCH_AXES), PartitionSpec(CENTER_AXIS), PartitionSpec()


Found = TypeVar("Found")


@runtime_checkable
class Rows(Protocol):
    """A float array ``[n, D]``, or what reads its slices and rows at places from a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, part: Any, /) -> Any: ...


@dataclass(frozen=True)
class Picked:
    """Some of the rows, which stay where they are until they are asked for."""

    rows: Rows
    places: Int[np.ndarray, " m"]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.places), *self.rows.shape[1:]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, part: Any) -> np.ndarray:
        return self.rows[self.places[part]]


@dataclass(frozen=True)
class Joined:
    """All rows of several, one after the other, which stay where they are until they are asked
    for."""

    parts: tuple[Rows, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), *self.parts[0].shape[1:]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, part: slice | Int[np.ndarray, " m"]) -> np.ndarray:
        ends = np.cumsum([0, *map(len, self.parts)]).tolist()
        if isinstance(part, slice):
            first, end, _ = part.indices(len(self))
            inside = [slice(max(first - s, 0), max(end - s, 0)) for s in ends[:-1]]
            return np.concatenate([rows[one] for rows, one in zip(self.parts, inside, strict=True)])
        found = np.empty((len(part), *self.shape[1:]), np.float32)
        for rows, start, stop in zip(self.parts, ends, ends[1:], strict=False):
            here = (part >= start) & (part < stop)
            found[here] = rows[part[here] - start]
        return found


class Chunk(NamedTuple):
    """Some consecutive rows of the data; out of core there are several chunks."""

    rows: Float[Array, "n D"]
    """Over data and fsdp."""
    count: Int[Array, ""]
    """Of `rows` the first so many are meant, the rest are zeros."""


Chunks = Callable[[], Iterable[Chunk]]
"""Begins one pass over the data."""


def place(rows: Rows, start: int = 0, stop: int | None = None) -> Chunk:
    """``rows[start:stop]`` on the devices in use. Each process reads only what its devices hold.

    Raises:
        ValueError: no rows.
    """
    stop = len(rows) if stop is None else min(stop, len(rows))
    count = stop - start
    if count <= 0:
        raise ValueError(f"rows have the shape {rows.shape}; give at least 1 row")
    unit = BLOCK * current_batch_shards()
    shape = (-(-count // unit) * unit, *rows.shape[1:])

    def part(index: Any) -> np.ndarray:
        first, end, _ = index[0].indices(shape[0])
        own = np.asarray(rows[start + min(first, count) : start + min(end, count)])
        return np.pad(own, ((0, end - first - len(own)), (0, 0)))

    if jax.sharding.get_abstract_mesh().empty:
        whole = jnp.asarray(part((slice(None),)))
    else:
        sharding = batch_sharding(jax.sharding.get_mesh())
        whole = jax.make_array_from_callback(shape, sharding, part)
    return Chunk(whole, jnp.asarray(count, jnp.int32))


def chunks_of(rows: Rows, chunk: int) -> Chunks:
    """`chunk` rows at a time. A single chunk stays on the devices, several come and go."""
    if len(rows) <= chunk:
        whole = [place(rows)]
        return lambda: whole
    return lambda: (place(rows, first, first + chunk) for first in range(0, len(rows), chunk))


def each(function: Callable[[Chunk], Found], chunks: Chunks) -> Iterator[Found]:
    """`function` of every chunk, in their order.

    While it is computed for one, the next is read: two lie on the devices at a time.
    """
    pending: list[Found] = []
    for chunk in chunks():
        pending.append(function(chunk))  # not awaited
        if len(pending) > 1:
            yield jax.block_until_ready(pending.pop(0))
    yield from pending


def to_host(tree: PyTree) -> PyTree:
    """Whole arrays as NumPy's, in every process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


def on_parts(
    function: Callable[..., Any], given: Sequence[PartitionSpec], result: PyTree
) -> Callable[..., Any]:
    """`function` of what each device holds of its arguments."""
    if jax.sharding.get_abstract_mesh().empty:
        return function
    # The types of values that differ between devices are not checked: loops would need casts.
    return jax.shard_map(function, in_specs=tuple(given), out_specs=result, check_vma=False)


def split_count(axes: str | Sequence[str]) -> int:
    """Into how many parts these axes of the mesh split; 1 without a mesh."""
    shape = jax.sharding.get_abstract_mesh().shape
    names = (axes,) if isinstance(axes, str) else axes
    return math.prod(shape.get(name, 1) for name in names)


def place_among(axes: str | Sequence[str]) -> Int[Array, ""]:
    """Inside `on_parts`: which of the parts this device holds."""
    return jax.lax.axis_index(axes) if split_count(axes) > 1 else jnp.zeros((), jnp.int32)


def total(tree: PyTree, axes: str | Sequence[str] = BATCH_AXES) -> PyTree:
    """Inside `on_parts`: the sum of all parts."""
    return jax.lax.psum(tree, axes) if split_count(axes) > 1 else tree


def stacked(x: Array, axes: str | Sequence[str] = BATCH_AXES) -> Array:
    """Inside `on_parts`: all parts under a new leading axis."""
    return jax.lax.all_gather(x, axes) if split_count(axes) > 1 else x[None]


def own_valid(rows: int, count: Int[Array, ""]) -> Bool[Array, " n"]:
    """Inside `on_parts`: which of this device's rows are no filling."""
    return place_among(BATCH_AXES) * rows + jnp.arange(rows) < count


def blocks(x: Shaped[Array, "n *c"]) -> Shaped[Array, "b r *c"]:
    """Inside `on_parts`: `BLOCK` rows each."""
    return rearrange(x, "(b r) ... -> b r ...", r=BLOCK)


def block_sums(values: Float[Array, "b *c r"]) -> Float[Array, "p *c"]:
    """Inside `on_parts`: the sums over each block, of all devices."""
    return rearrange(stacked(values.sum(axis=-1)), "p b ... -> (p b) ...")


def row_at(rows: Shaped[Array, "n D"], index: Int[Array, " m"]) -> Shaped[Array, "m D"]:
    """Inside `on_parts`: these rows of the whole chunk, on every device."""
    local = index - place_among(BATCH_AXES) * len(rows)
    own = (local >= 0) & (local < len(rows))
    return total(jnp.where(own[:, None], rows[jnp.clip(local, 0, len(rows) - 1)], 0))
