"""Tokens of one image and head on a Hopper GPU: copies, RoPE, and a loop one block ahead.

Arrays are ``[R, N, H, d]`` with ``R`` images. A copy takes 64 tokens of one head out of them as
they lie, so nothing is transposed; it ends at the image's last token, so nothing is padded (tokens
after the last are read as zeros and not written).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from dinojax.kernels.rope import RopeTables
from dinojax.kernels.tiles_gpu import ROWS, WARPGROUP, Hopper, Index, Ref
from dinojax.precision import widen
from dinojax.typing import Array, Float

GRID = ("image", "head", "block")
"""Axes of the grid, the last one fastest: programs of one head read the same keys."""
MAX_IMAGES = 65535
"""Of a grid's slowest axis (CUDA C++ Programming Guide, technical specifications)."""


class Parts(NamedTuple):
    """The tiles that the features of a head are cut into."""

    count: int
    width: int


@dataclass(frozen=True)
class Plan:
    """How images are cut into blocks of 64 tokens for each warpgroup of a program."""

    machine: Hopper
    tokens: int
    warpgroups: int
    blocks: int
    plain: Parts
    turned: Parts
    """Of queries and keys: with RoPE two halves, of which one is turned against the other."""

    @property
    def tiles(self) -> int:
        """Tiles of 64 tokens, the last ones maybe empty."""
        return self.blocks * self.warpgroups

    @property
    def slots(self) -> int:
        """Blocks in shared memory: one in use, one on its way."""
        return min(2, self.blocks)

    def own(self, parts: Parts, dtype: DTypeLike) -> Any:
        """Shared memory for one tile of tokens per warpgroup."""
        return self.machine.tiles((self.warpgroups, parts.count), parts.width, dtype)

    def streamed(self, parts: Parts, dtype: DTypeLike) -> Any:
        """Shared memory for the blocks that pass by."""
        shape = (self.slots, self.warpgroups, parts.count)
        return self.machine.tiles(shape, parts.width, dtype)

    def kernel(self, body: Callable, images: int, heads: int, **options: Any) -> Callable:
        """Run `body` for each image, head and block."""
        return plgpu.kernel(
            body,
            grid=(images, heads, self.blocks),
            grid_names=GRID,
            num_threads=self.warpgroups,
            thread_name=WARPGROUP,
            **options,
            **self.machine.kernel_options(),
        )


class Barriers(NamedTuple):
    """What warpgroups wait for."""

    own: Ref
    """The copies of a warpgroup's own tile."""
    arrived: Ref
    """The copies into a slot."""
    met: Ref
    """The other warpgroups."""


def make_plan(machine: Hopper, tokens: int, width: int, *, turns: bool) -> Plan:
    """One warpgroup for up to 64 tokens (many small programs fit on a core), else two."""
    warpgroups = 1 if tokens <= ROWS else machine.warpgroups
    plain = Parts(width // ROWS, ROWS)
    return Plan(
        machine=machine,
        tokens=tokens,
        warpgroups=warpgroups,
        blocks=-(-tokens // (ROWS * warpgroups)),
        plain=plain,
        turned=Parts(2, width // 2) if turns else plain,
    )


def barriers(plan: Plan, *, own: int) -> Barriers:
    """`own` copies for a warpgroup itself; of what passes by, one array is turned and one plain."""
    copies = plan.turned.count + plan.plain.count
    return Barriers(
        own=plgpu.Barrier(num_arrivals=own, num_barriers=plan.warpgroups),
        arrived=plgpu.Barrier(num_arrivals=copies * plan.warpgroups, num_barriers=plan.slots),
        met=plgpu.Barrier(num_arrivals=plan.warpgroups),
    )


def pack_tables(rope: RopeTables, tiles: int) -> Float[Array, "T tiles 2 64 half"]:
    """Cosines and sines of each tile of tokens, one half: both halves of a table are the same."""
    half = rope.cos.shape[-1] // 2
    both = widen(jnp.stack([rope.cos[..., :half], rope.sin[..., :half]], axis=1))
    padded = jnp.pad(both, ((0, 0), (0, 0), (0, tiles * ROWS - both.shape[2]), (0, 0)))
    return rearrange(padded, "T two (tiles rows) half -> T tiles two rows half", rows=ROWS)


def tables_of(rope: Ref | None, images: int, image: Array) -> Ref | None:
    """The tables of an image's draw group."""
    return None if rope is None else rope.at[lax.div(image, jnp.int32(images // rope.shape[0]))]


def copy_in(
    plan: Plan, parts: Parts, source: Ref, tile: Array, target: Ref, at: Index, barrier: Ref
) -> None:
    """Start the copies of 64 tokens of a head, ``source [N, d]``, to the tiles ``target[at]``."""
    for part in range(parts.count):
        column = part * parts.width
        plan.machine.copy_in(source, tile * ROWS, column, target, (*at, part), barrier)


def copy_out(plan: Plan, parts: Parts, source: Ref, at: Index, target: Ref, tile: Array) -> None:
    """Copy tiles, which this warpgroup has written, to 64 tokens of a head."""
    plan.machine.commit()
    for part in range(parts.count):
        column = part * parts.width
        plan.machine.copy_out(source, (*at, part), target, tile * ROWS, column)


def turn(low: Array, high: Array, cos: Array, sin: Array) -> tuple[Array, Array]:
    """Both halves of features, turned by RoPE; with ``-sin`` turned back."""
    return low * cos - high * sin, high * cos + low * sin


def turn_in_place(plan: Plan, tiles: Ref, at: Index, tables: Ref | None, tile: Array) -> None:
    """RoPE on a tile of tokens, in float32, rounded as `apply_rope` rounds."""
    if tables is None:
        return
    read = plan.machine.read
    cos, sin = read(tables.at[tile, 0]), read(tables.at[tile, 1])
    low, high = (widen(read(tiles.at[(*at, part)])) for part in range(2))
    for part, turned in enumerate(turn(low, high, cos, sin)):
        plan.machine.write(tiles.at[(*at, part)], turned.astype(tiles.dtype))
    plan.machine.commit()


@dataclass(frozen=True)
class Stream:
    """Blocks of two arrays of one head, which pass by all warpgroups of a program."""

    plan: Plan
    turned: Ref
    """In global memory; RoPE turns it."""
    plain: Ref
    turned_slots: Ref
    plain_slots: Ref
    tables: Ref | None
    wait: Barriers

    def start(self) -> None:
        """Start the copies of the first block."""
        pl.when(lax.axis_index(WARPGROUP) == 0)(lambda: self._fetch(jnp.int32(0), jnp.int32(0)))

    def fold(self, step: Callable[[Array, Array, Any, bool], Any], carry: Any) -> Any:
        """Fold ``step(block, slot, carry, last)`` over the blocks."""
        slots, me = jnp.int32(self.plan.slots), lax.axis_index(WARPGROUP)

        def visit(block, carry, last=False):
            slot = lax.rem(block, slots)
            self.plan.machine.wait(self.wait.arrived.at[slot])
            tile = block * self.plan.warpgroups + me
            turn_in_place(self.plan, self.turned_slots, (slot, me), self.tables, tile)
            self.plan.machine.meet(self.wait.met)
            # Everyone is here, so no one reads the previous block any more.
            if not last:
                upcoming = block + 1
                pl.when(me == 0)(lambda: self._fetch(upcoming, lax.rem(upcoming, slots)))
            return step(block, slot, carry, last)

        if self.plan.blocks > 1:
            carry = lax.fori_loop(0, self.plan.blocks - 1, visit, carry)
        return visit(jnp.int32(self.plan.blocks - 1), carry, last=True)

    def _fetch(self, block: Array, slot: Array) -> None:
        plan, arrived = self.plan, self.wait.arrived.at[slot]
        for w in range(plan.warpgroups):
            tile = block * plan.warpgroups + w
            copy_in(plan, plan.turned, self.turned, tile, self.turned_slots, (slot, w), arrived)
            copy_in(plan, plan.plain, self.plain, tile, self.plain_slots, (slot, w), arrived)
