"""Mosaic's interpreter of GPUs, on the CPU.

It runs copies, barriers, masks and loops as a Hopper GPU has them. What it cannot do (jax 0.10.2:
factors in registers, transposed factors, layouts of registers, views of shared memory, copies over
the edge of an array) is here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from dinojax.kernels.tiles_gpu import ROWS, Hopper, Index, Ref, Transposed
from dinojax.precision import widen
from dinojax.typing import Array


@dataclass(frozen=True)
class Interpreted(Hopper):
    """A GPU of so many warpgroups a program, interpreted."""

    def refuses(self, capability: str) -> str | None:
        return None

    def kernel_options(self) -> dict[str, Any]:
        # Not exported yet. Reads over the edge are zeros, as those of a GPU's copies.
        from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

        edge: dict[str, Any] = {"out_of_bounds_reads": "uninitialized"}
        return {"interpret": InterpretGPUParams(uninitialized_memory="zero", **edge)}

    def output_rows(self, rows: int) -> int:
        """Whole blocks: writes over the edge are dropped as a whole."""
        return rows + -rows % (2 * ROWS)

    def tiles(self, shape: Sequence[int], width: int, dtype: DTypeLike) -> Any:
        return plgpu.SMEM((*shape, ROWS, width), dtype)

    def rows(self, tiles: Ref, at: Index) -> Ref:
        return tiles.at[at]

    def read(self, tile: Ref) -> Array:
        return tile[...]

    def write(self, tile: Ref, x: Array) -> None:
        tile[...] = x

    def read_vector(self, vector: Ref, axis: int) -> Array:
        return vector[...]

    def full(self, width: int, value: float) -> Array:
        return jnp.full((ROWS, width), value, jnp.float32)

    def full_vector(self, value: float) -> Array:
        return jnp.full((ROWS,), value, jnp.float32)

    def columns(self) -> Array:
        return jax.lax.broadcasted_iota(jnp.int32, (ROWS, ROWS), 1)

    def add_products(
        self, sums: Sequence[Array], factors: Sequence[Sequence[tuple[Array | Ref, Ref]]]
    ) -> tuple[Array, ...]:
        return tuple(
            sum((_product(a, b) for a, b in pairs), start=total)
            for total, pairs in zip(sums, factors, strict=True)
        )


def _product(a: Array | Ref, b: Ref) -> Array:
    transposed = isinstance(b, Transposed)
    tile = b.tile if transposed else b
    dims = (((1,), (1 if transposed else 0,)), ((), ()))
    return jax.lax.dot_general(widen(a[...]), widen(tile[...]), dims)
