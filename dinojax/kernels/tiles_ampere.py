"""Tiles on GPUs without TMA and ``wgmma``: copies by threads, products in registers.

``cp.async`` and ``mma.sync`` are in every NVIDIA GPU from Ampere on. Mosaic's own copies of
this kind (jax 0.12) must not cross the edge of an array; these give zeros for what is over it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.mosaic.gpu import utils
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, llvm, nvvm

from dinojax.kernels.tiles_gpu import ROWS, Hopper, Index, Ref, load, second_factor
from dinojax.typing import Array

THREADS = 128
"""Of a warpgroup."""
PIECE_BYTES = 16
"""What a thread copies at once."""
JAX = jax.__version_info__
Value = Any
"""One of a thread, in MLIR."""
newer: Any = plgpu
"""Of which this uses what came with jax 0.12."""


@dataclass(frozen=True)
class Ampere(Hopper):
    """A GPU of compute capability 8.0 (Ampere) to 10.x (Blackwell in data centres).

    A program is one warpgroup: the tiles of two do not fit in the 99 KiB of 8.6 and 8.9.
    """

    warpgroups: int = 1

    def refuses(self, capability: str) -> str | None:
        if capability.split(".")[0] not in ("8", "9", "10"):  # of 12.x: docs/attention_gpu.md
            return f"compute capability {capability} is not 8.x (Ampere) to 10.x"
        if JAX < (0, 12):
            return f"jax {'.'.join(map(str, JAX))} makes no code for Ampere; 0.12 does"
        return None

    def copy_in(
        self, source: Ref, row: Array, column: int, tiles: Ref, at: Index, arrived: Ref
    ) -> None:
        def copy(_, source, tile, row):
            for there, here, inside in _pieces(source, row, column, tile):
                size = arith.select(inside, _i32(PIECE_BYTES), _i32(0))  # the rest is zeros
                cached = nvvm.LoadCacheModifierKind.CG
                nvvm.cp_async_shared_global(here, there, PIECE_BYTES, cached, cp_size=size)
            nvvm.cp_async_commit_group()

        _inline(copy, source, tiles, at, row)

    def wait(self, arrived: Ref) -> None:
        """Wait until all copies of the warpgroup have arrived; `arrived` is TMA's."""

        def wait(_):
            nvvm.cp_async_wait_group(0)
            mgpu.warpgroup_barrier()

        plgpu.inline_mgpu()(wait)()

    def copy_out(self, tiles: Ref, at: Index, target: Ref, row: Array, column: int) -> None:
        def copy(_, target, tile, row):
            words = ir.VectorType.get((4,), ir.IntegerType.get_signless(32))
            for there, here, inside in _pieces(target, row, column, tile):
                piece = llvm.load(words, here)
                parts = [llvm.extractelement(piece, _i32(i)) for i in range(4)]
                # A branch instead is joined with the next one of its kind, in which some threads
                # of a warp would wait at another copy of the barrier between them.
                llvm.inline_asm(
                    ir.Type.parse("!llvm.void"),
                    [there, *parts, inside],
                    "@$5 st.global.v4.b32 [$0], {$1, $2, $3, $4};",
                    "l,r,r,r,r,b",
                    has_side_effects=True,
                )

        _inline(copy, target, tiles, at, row)

    def finish(self) -> None:
        """Nothing to wait for: threads write themselves."""

    def commit(self) -> None:
        plgpu.inline_mgpu()(lambda _: mgpu.warpgroup_barrier())()

    def meet(self, barrier: Ref) -> None:
        self.commit()

    def add_products(
        self, sums: Sequence[Array], factors: Sequence[Sequence[tuple[Array | Ref, Ref]]]
    ) -> tuple[Array, ...]:
        totals = list(sums)
        for i, pairs in enumerate(factors):
            for a, b in pairs:
                first = _first_factor(a)
                second = load(second_factor(b), newer.Layout.MMA_RHS(first.dtype))
                totals[i] = newer.mma(totals[i], first, second)
        return tuple(totals)


def _first_factor(a: Array | Ref) -> Array:
    layout = newer.Layout.MMA_LHS(a.dtype)
    if not isinstance(a, Array):
        return load(a, layout)

    # Sums are spread over threads as first factors are, only in another order.
    def reorder(_, a):
        to = layout.to_mgpu()
        registers = a.registers.reshape(to.registers_shape(a.shape))
        return mgpu.FragmentedArray(_registers=registers, _layout=to, _is_signed=a.is_signed)

    result = plgpu.ShapeDtypeStruct(a.shape, a.dtype, layout)
    inlined: Any = plgpu.inline_mgpu(arg_types=(plgpu.Layout.WGMMA,), return_type=result)(reorder)
    return inlined(a)


def _inline(copy: Callable, array: Ref, tiles: Ref, at: Index, row: Array) -> None:
    """Inline ``copy(context, array [N, d], tile [64, width], row)``."""
    unswizzle, _ = tiles.transforms
    transforms = (
        plgpu.TilingTransform((8, tiles.shape[-1])),
        plgpu.SwizzleTransform(unswizzle.swizzle),
    )
    types = plgpu.RefType(), plgpu.RefType(transforms), plgpu.Layout.WG_SPLAT(())
    plgpu.inline_mgpu(arg_types=types)(copy)(array, tiles.at[at], row)


def _pieces(
    array: Value, row: Value, column: int, tile: Value
) -> Iterator[tuple[Value, Value, Value]]:
    """What this thread copies of a window at ``array[row:, column:]`` and of a tile.

    Pieces, each by its address in the array and in the tile, and whether it is in the array. Rows
    of a tile follow each other, swizzled: as many of the bits 4 to 6 of an address as count the
    pieces of a row are xored with those three bits above.
    """
    element = array.type.element_type
    tokens, _ = array.type.shape
    (stride, _), _ = array.type.get_strides_and_offset()
    size = mgpu.bytewidth(element)
    row_bytes = tile.type.shape[-1] * size
    there = llvm.addrspacecast(llvm.PointerType.get(address_space=1), utils.memref_ptr(array))
    here = utils.memref_ptr(tile)
    thread = arith.remui(mgpu.thread_idx(), _i32(THREADS))
    (first,) = row.registers.flat
    for i in range(ROWS * row_bytes // (PIECE_BYTES * THREADS)):
        byte = arith.muli(arith.addi(thread, _i32(i * THREADS)), _i32(PIECE_BYTES))
        token = arith.addi(first, arith.divui(byte, _i32(row_bytes)))
        feature = arith.divui(arith.remui(byte, _i32(row_bytes)), _i32(size))
        offset = arith.addi(arith.muli(token, _i32(stride)), arith.addi(feature, _i32(column)))
        above = arith.andi(arith.shrui(byte, _i32(3)), _i32(row_bytes - PIECE_BYTES))
        yield (
            utils.getelementptr(there, [offset], element),
            utils.getelementptr(here, [arith.xori(byte, above)], ir.IntegerType.get_signless(8)),
            arith.cmpi(arith.CmpIPredicate.slt, token, _i32(tokens)),
        )


def _i32(value: int) -> Value:
    return mgpu.c(value, ir.IntegerType.get_signless(32))
