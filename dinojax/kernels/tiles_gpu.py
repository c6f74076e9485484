"""Tiles of 64 rows for kernels on NVIDIA Hopper, in Pallas' Mosaic GPU dialect.

A warpgroup multiplies tiles of 64 rows (``wgmma``). What Mosaic's interpreter cannot do (jax
0.10.2: factors in registers, transposed factors, layouts of registers, views of shared memory,
copies over the edge of an array) is in `Machine` and nowhere else, so that a kernel is the same
code on a GPU and in a test without one.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from dinojax.precision import widen
from dinojax.typing import Array

ROWS = 64
"""Rows of a tile."""
WARPGROUP = "warpgroup"
"""Axis of the warpgroups of a program; all run the same code, each on its own tile of rows."""
Ref = Any
"""Memory inside a kernel, or a part of it; Pallas has no public type for both."""


class Transposed(NamedTuple):
    """The second factor of a product, transposed."""

    tile: Ref


@dataclass(frozen=True)
class Machine:
    """A Hopper GPU, or Mosaic's interpreter of one on the CPU."""

    interpret: bool

    def kernel_options(self) -> dict[str, Any]:
        """What `plgpu.kernel` has to know of the machine."""
        if not self.interpret:
            lane = plgpu.LoweringSemantics.Lane
            return {
                "compiler_params": plgpu.CompilerParams(approx_math=True, lowering_semantics=lane)
            }
        # Not exported yet. Reads over the edge are zeros, as those of a GPU's copies.
        from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

        edge: dict[str, Any] = {"out_of_bounds_reads": "uninitialized"}
        return {"interpret": InterpretGPUParams(uninitialized_memory="zero", **edge)}

    def output_rows(self, rows: int) -> int:
        """Rows to allocate for `rows`: the interpreter drops writes over the edge as a whole."""
        return rows + -rows % (2 * ROWS) if self.interpret else rows

    def tiles(self, shape: Sequence[int], width: int, dtype: DTypeLike) -> Any:
        """Shared memory for an array of tiles ``[64, width]``, laid out for products."""
        if self.interpret:
            return plgpu.SMEM((*shape, ROWS, width), dtype)
        swizzle = plgpu.SwizzleTransform(width * jnp.dtype(dtype).itemsize)
        transforms = (plgpu.TilingTransform((8, width)), swizzle)
        return plgpu.SMEM((*shape, ROWS, width), dtype, transforms=transforms)

    def rows(self, tiles: Ref, *index: Array | int) -> Ref:
        """One tile as plain swizzled rows, for copies from and to global memory.

        The same bytes: groups of 8 rows, which products want, are as wide as the tile and so follow
        each other. But copies of such groups need a multiple of 8 rows in global memory.
        """
        if self.interpret:
            return tiles.at[index]
        unswizzle, _ = tiles.transforms
        groups = tiles.ref.at[index]
        rows = groups.reshape(ROWS, groups.shape[-1])
        return type(tiles)(rows.ref, (*rows.transforms, unswizzle))

    def read(self, tile: Ref) -> Array:
        """A tile, from shared or global memory, as products give and take it."""
        if self.interpret:
            return tile[...]
        return _load(tile, plgpu.Layout.WGMMA)

    def read_vector(self, vector: Ref, axis: int) -> Array:
        """64 numbers, one per row of a tile (axis 0) or one per column (axis 1)."""
        if self.interpret:
            return vector[...]
        return _load(vector, plgpu.Layout.WGMMA.reduce(1 - axis))

    def full(self, width: int, value: float) -> Array:
        """A float32 tile ``[64, width]`` of one value."""
        x = jnp.full((ROWS, width), value, jnp.float32)
        return x if self.interpret else plgpu.layout_cast(x, plgpu.Layout.WGMMA)

    def full_vector(self, value: float) -> Array:
        """One float32 value for each row of a tile."""
        x = jnp.full((ROWS,), value, jnp.float32)
        return x if self.interpret else plgpu.layout_cast(x, plgpu.Layout.WGMMA.reduce(1))

    def columns(self) -> Array:
        """The tile ``[64, 64]`` of column numbers."""
        shape = (ROWS, ROWS)
        if self.interpret:
            return jax.lax.broadcasted_iota(jnp.int32, shape, 1)
        return plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=plgpu.Layout.WGMMA)

    def add_products(
        self, sums: Sequence[Array], factors: Sequence[Sequence[tuple[Array | Ref, Ref]]]
    ) -> tuple[Array, ...]:
        """To each sum the products ``a @ b`` of its pairs, summed in float32.

        `b` is in shared memory, `a` there or in registers; either way one tile.
        """
        if self.interpret:
            return tuple(
                sum((_interpreted_product(a, b) for a, b in pairs), start=total)
                for total, pairs in zip(sums, factors, strict=True)
            )

        def multiply(totals):
            for total, pairs in zip(totals, factors, strict=True):
                for a, b in pairs:
                    turned = isinstance(b, Transposed)
                    plgpu.wgmma(total, a, b.tile.transpose((1, 0)) if turned else b)

        accumulators = tuple(plgpu.WGMMAAccumulatorRef.init(total) for total in sums)
        return cast(tuple[Array, ...], pl.run_state(multiply)(accumulators))


def _load(ref: Ref, layout: Any) -> Array:
    # Newer ones of jax have no index here. From global memory any layout is unoptimised.
    index = [()] if "idx" in inspect.signature(plgpu.load).parameters else []
    return plgpu.load(ref, *index, layout=layout, optimized=False)


def _interpreted_product(a: Array | Ref, b: Ref) -> Array:
    transposed = isinstance(b, Transposed)
    tile = b.tile if transposed else b
    dims = (((1,), (1 if transposed else 0,)), ((), ()))
    return jax.lax.dot_general(widen(a[...]), widen(tile[...]), dims)


def per_row(vector: Array, like: Array) -> Array:
    """One number per row, repeated along the row."""
    return jax.lax.broadcast_in_dim(vector, like.shape, [0])


def per_column(vector: Array, like: Array) -> Array:
    """One number per column, repeated along the column."""
    return jax.lax.broadcast_in_dim(vector, like.shape, [1])
