"""Bytes that Pallas calls move between main memory and their programs, from grids and block specs.

The compiler reports of a Pallas call whatever its `cost_estimate` declares. What it moves follows
from its blocks: one is copied whenever its index changes from one program to the next.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl


class Call(NamedTuple):
    """One `pallas_call`: its name, and bytes by grid and blocks and by its cost estimate."""

    name: str
    moved: int
    declared: int


@contextlib.contextmanager
def recorded() -> Iterator[list[Call]]:
    """The calls that are traced meanwhile. Their results are zeros: no kernel is traced or run."""
    calls, original = [], pl.pallas_call

    def pallas_call(kernel, out_shape, *, grid, in_specs, out_specs, cost_estimate, name, **_):
        del kernel

        def call(*arrays):
            specs, places = map(jax.tree.leaves, ((in_specs, out_specs), (arrays, out_shape)))
            moved = sum(_moved(*pair, grid) for pair in zip(specs, places, strict=True))
            calls.append(Call(name, moved, cost_estimate.bytes_accessed))
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), out_shape)

        return call

    pl.pallas_call = pallas_call
    try:
        yield calls
    finally:
        pl.pallas_call = original


def _moved(spec: pl.BlockSpec, array: jax.ShapeDtypeStruct, grid: Sequence[int]) -> int:
    if spec.block_shape is None:  # all of it, once: scalars
        return array.size * array.dtype.itemsize
    assert spec.index_map is not None
    points: list[Any] = [x.reshape(-1) for x in np.indices(grid)]
    programs = len(points[0])
    index = [np.broadcast_to(i, programs) for i in spec.index_map(*points)]
    changed = np.ones(programs, bool)
    changed[1:] = np.any([i[1:] != i[:-1] for i in index], axis=0)
    numbers = np.ones(programs, np.int64)
    for i, size, whole in zip(index, spec.block_shape, array.shape, strict=True):
        length = 1 if size is None else int(size)  # type: ignore[arg-type]
        numbers *= np.minimum(length, whole - i * length)  # the last block may be a part of one
    return int(numbers[changed].sum()) * array.dtype.itemsize
