"""Tiles of 64 rows for kernels on NVIDIA GPUs, in Pallas' Mosaic GPU dialect.

What differs between GPUs, copies and products, is in `Hopper` and `tiles_ampere.Ampere`; what
Mosaic's interpreter cannot do is in `tiles_interpreted.Interpreted`. A kernel is the same code on
all of them.
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

from dinojax.typing import Array

ROWS = 64
"""Rows of a tile."""
WARPGROUP = "warpgroup"
"""Axis of the warpgroups of a program; all run the same code, each on its own tile of rows."""
Ref = Any
"""Memory inside a kernel, or a part of it; Pallas has no public type for both."""
Index = tuple[Array | int, ...]


class Transposed(NamedTuple):
    """The second factor of a product, transposed."""

    tile: Ref


@dataclass(frozen=True)
class Hopper:
    """A GPU with TMA and ``wgmma``: a warpgroup multiplies tiles of 64 rows."""

    warpgroups: int = 2
    """Of a program, at most."""

    def refuses(self, capability: str) -> str | None:
        """Why a GPU of this CUDA compute capability is another one, or None."""
        if capability.split(".")[0] == "9":
            return None
        return f"compute capability {capability} is not 9.x (Hopper)"

    def kernel_options(self) -> dict[str, Any]:
        """What `plgpu.kernel` has to know of the machine."""
        lane = plgpu.LoweringSemantics.Lane
        return {"compiler_params": plgpu.CompilerParams(approx_math=True, lowering_semantics=lane)}

    def output_rows(self, rows: int) -> int:
        """Rows to allocate for `rows`."""
        return rows

    def tiles(self, shape: Sequence[int], width: int, dtype: DTypeLike) -> Any:
        """Shared memory for an array of tiles ``[64, width]``, laid out for products."""
        swizzle = plgpu.SwizzleTransform(width * jnp.dtype(dtype).itemsize)
        transforms = (plgpu.TilingTransform((8, width)), swizzle)
        return plgpu.SMEM((*shape, ROWS, width), dtype, transforms=transforms)

    def copy_in(
        self, source: Ref, row: Array, column: int, tiles: Ref, at: Index, arrived: Ref
    ) -> None:
        """Start to copy a window of ``source [N, d]`` to ``tiles[at]``, zeros for rows after N."""
        window = source.at[pl.ds(row, ROWS), pl.ds(column, tiles.shape[-1])]
        plgpu.copy_gmem_to_smem(window, self.rows(tiles, at), arrived)

    def wait(self, arrived: Ref) -> None:
        """Wait until copies have arrived."""
        plgpu.barrier_wait(arrived)

    def copy_out(self, tiles: Ref, at: Index, target: Ref, row: Array, column: int) -> None:
        """Start to copy ``tiles[at]``, committed, to a window of ``target [N, d]``, up to row N."""
        window = target.at[pl.ds(row, ROWS), pl.ds(column, tiles.shape[-1])]
        plgpu.copy_smem_to_gmem(self.rows(tiles, at), window)

    def finish(self) -> None:
        """Wait until copies out are done."""
        plgpu.wait_smem_to_gmem(0)

    def commit(self) -> None:
        """Let copies and products see what this warpgroup wrote to shared memory."""
        plgpu.commit_smem()

    def meet(self, barrier: Ref) -> None:
        """Wait for all warpgroups."""
        plgpu.barrier_arrive(barrier)
        plgpu.barrier_wait(barrier)

    def rows(self, tiles: Ref, at: Index) -> Ref:
        """One tile as plain swizzled rows, for copies from and to global memory.

        The same bytes: groups of 8 rows, which products want, are as wide as the tile and so follow
        each other. But copies of such groups need a multiple of 8 rows in global memory.
        """
        unswizzle, _ = tiles.transforms
        groups = tiles.ref.at[at]
        rows = groups.reshape(ROWS, groups.shape[-1])
        return type(tiles)(rows.ref, (*rows.transforms, unswizzle))

    def read(self, tile: Ref) -> Array:
        """A tile, from shared or global memory, as products give and take it."""
        return load(tile, plgpu.Layout.WGMMA)

    def write(self, tile: Ref, x: Array) -> None:
        """Overwrite a tile in shared memory."""
        store = getattr(plgpu, "store", None)
        if store is None:  # before jax 0.12
            tile[...] = x
        else:  # an assignment would read what was there
            store(tile, x, optimized=False)

    def read_vector(self, vector: Ref, axis: int) -> Array:
        """64 numbers, one per row of a tile (axis 0) or one per column (axis 1)."""
        return load(vector, plgpu.Layout.WGMMA.reduce(1 - axis))

    def full(self, width: int, value: float) -> Array:
        """A float32 tile ``[64, width]`` of one value."""
        return plgpu.layout_cast(jnp.full((ROWS, width), value, jnp.float32), plgpu.Layout.WGMMA)

    def full_vector(self, value: float) -> Array:
        """One float32 value for each row of a tile."""
        layout = plgpu.Layout.WGMMA.reduce(1)
        return plgpu.layout_cast(jnp.full((ROWS,), value, jnp.float32), layout)

    def columns(self) -> Array:
        """The tile ``[64, 64]`` of column numbers."""
        return plgpu.broadcasted_iota(jnp.int32, (ROWS, ROWS), 1, layout=plgpu.Layout.WGMMA)

    def add_products(
        self, sums: Sequence[Array], factors: Sequence[Sequence[tuple[Array | Ref, Ref]]]
    ) -> tuple[Array, ...]:
        """To each sum the products ``a @ b`` of its pairs, summed in float32.

        `b` is in shared memory, `a` there or in registers; either way one tile.
        """

        def multiply(totals):
            for total, pairs in zip(totals, factors, strict=True):
                for a, b in pairs:
                    plgpu.wgmma(total, a, second_factor(b))

        accumulators = tuple(plgpu.WGMMAAccumulatorRef.init(total) for total in sums)
        return cast(tuple[Array, ...], pl.run_state(multiply)(accumulators))


def load(ref: Ref, layout: Any) -> Array:
    """Read memory in a layout."""
    # Newer ones of jax have no index here. From global memory any layout is unoptimised.
    index = [()] if "idx" in inspect.signature(plgpu.load).parameters else []
    return plgpu.load(ref, *index, layout=layout, optimized=False)


def second_factor(b: Ref | Transposed) -> Ref:
    """A second factor, as products take it."""
    return b.tile.transpose((1, 0)) if isinstance(b, Transposed) else b


def per_row(vector: Array, like: Array) -> Array:
    """One number per row, repeated along the row."""
    return jax.lax.broadcast_in_dim(vector, like.shape, [0])


def per_column(vector: Array, like: Array) -> Array:
    """One number per column, repeated along the column."""
    return jax.lax.broadcast_in_dim(vector, like.shape, [1])
