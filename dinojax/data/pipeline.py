"""Batches by step: the record behind (step, slot) is a function of (order, step, slot) alone.

Position is all there is (`order.py`): hosts take slots, workers take whole steps, and none of them
can change what a batch holds. Resuming is starting at another step; nothing is stored.
"""

import os
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Int32, Int64

from dinojax.data.canvases import CanvasMemory
from dinojax.data.load import READ_TIMEOUT_S, Canvases, Problem, Sizes, load, substitutes
from dinojax.data.order import Order
from dinojax.data.prefetch import AHEAD, iterate, most_ahead
from dinojax.data.source import Source


class TrainBatch(TypedDict):
    """One host's part of a global batch."""

    canvas: Canvases
    size: Sizes  # (height, width) of the image at the canvas' top left
    index: Int64[np.ndarray, " b"]  # which records are on the canvases
    problems: tuple[Problem, ...]  # records that could not be read, with their substitutes
    step: int


class EvalBatch(TypedDict):
    """Records in source order.

    Unreadable ones, and those that fill up the last batch, are black and not `valid`.
    """

    canvas: Canvases
    size: Sizes
    label: Int32[np.ndarray, " b"]  # -1: none
    valid: Bool[np.ndarray, " b"]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class StepBatches:
    """One host's training batches as a sequence: ``batches[41237]`` is what step 41237 saw.

    Attributes:
        source: where the records come from: the parts of `order`, end to end.
        order: which of them each step takes.
        canvas_px: side of the canvases.
        slots: of the global batch that this host loads, in this order; None: all of them.
        num_threads: decoding threads.
        read_timeout_s: seconds that the reading of one image may take.
        channels: of the images, as for `dinojax.data.decode.decode_image`.

    Raises:
        ValueError: an order of other sizes, or a number outside its range.
    """

    source: Source
    order: Order
    canvas_px: int
    slots: Sequence[int] | None = None
    num_threads: int = 1
    read_timeout_s: float = READ_TIMEOUT_S
    channels: int = 3

    def __post_init__(self) -> None:
        if sum(self.order.sizes) != len(self.source):
            raise ValueError(
                f"sizes={self.order.sizes} do not add up to the {len(self.source)} records of the "
                "source; use an order made for it"
            )
        batch, slots = self.order.global_batch, self.own_slots
        if not slots or len(set(slots)) < len(slots) or min(slots) < 0 or max(slots) >= batch:
            raise ValueError(
                f"slots={self.slots} must be distinct ones of global_batch={batch}; "
                f"use range({batch})"
            )
        if self.canvas_px < 1:
            raise ValueError(f"canvas_px={self.canvas_px} must be at least 1; use 512")

    def __len__(self) -> int:
        return sys.maxsize // self.order.global_batch

    def __getitem__(self, step: int) -> TrainBatch:
        return self.read(step, self.own_slots)

    def read(
        self, step: int, slots: Sequence[int], records: Int64[np.ndarray, " b"] | None = None
    ) -> TrainBatch:
        """These slots of the global batch, whichever host they belong to.

        Args:
            records: what they show instead of their own records; nothing takes the place of these.
        """
        first = step * self.order.global_batch
        canvas, size, _, index, problems = load(
            self.source,
            self.order.indices(step, slots) if records is None else records,
            [first + slot for slot in slots],
            batch=len(slots),
            canvas_px=self.canvas_px,
            num_threads=self.num_threads,
            read_timeout_s=self.read_timeout_s,
            memory=self._memory,
            channels=self.channels,
            instead=self.substitutes if records is None else lambda position, index: (),
        )
        return TrainBatch(canvas=canvas, size=size, index=index, problems=problems, step=step)

    def substitutes(self, position: int, index: int) -> Iterator[int]:
        """Of the same part: neither a mixture nor a homogeneous batch changes."""
        return substitutes(self.order.seed, position, self.order.part_of(index))

    @cached_property
    def _memory(self) -> CanvasMemory:
        return CanvasMemory()

    @property
    def own_slots(self) -> Sequence[int]:
        """What this host loads of each batch."""
        return range(self.order.global_batch) if self.slots is None else self.slots

    @property
    def batch_bytes(self) -> int:
        """Memory of one batch's canvases."""
        return len(self.own_slots) * self.canvas_px**2 * self.channels


def make_loader(
    source: Source,
    order: Order,
    *,
    canvas_px: int,
    start_step: int = 0,
    num_workers: int = 0,
    num_threads: int | None = None,
    prefetch_mb: int = 4096,
    read_timeout_s: float = READ_TIMEOUT_S,
    slots: Sequence[int] | None = None,
    channels: int = 3,
) -> Generator[TrainBatch, None, None]:
    """Iterate over `StepBatches` from `start_step` on, loading ahead.

    The iterator ends its threads and workers in `close()`: use ``with contextlib.closing(...)``.
    Without workers, decoding runs in threads of this process; codecs release the GIL, so that is
    enough up to about 16 cores. Workers are spawned, which imports the caller's ``__main__`` again.

    Args:
        start_step: the first step; the batches are the same as when starting from 0.
        num_workers: decoding processes, each of which loads whole batches.
        num_threads: decoding threads per process; None: the cores divided among the processes.
        prefetch_mb: memory in MB for batches that are being loaded or wait to be taken, as for
            `dinojax.data.prefetch.most_ahead`.
        read_timeout_s: seconds that the reading of one image may take before the iterator raises
            `dinojax.data.threads.StorageError`.
        slots: of the global batch that are loaded here, as for `StepBatches`.
        channels: of the images.

    Raises:
        ValueError: a number outside its range.
    """
    for name, value in (
        ("start_step", start_step),
        ("num_workers", num_workers),
        ("prefetch_mb", prefetch_mb),
    ):
        if value < 0:
            raise ValueError(f"{name}={value} must be at least 0; use 0")
    batches = StepBatches(
        source=source,
        order=order,
        canvas_px=canvas_px,
        slots=slots,
        num_threads=num_threads or default_threads(num_workers),
        read_timeout_s=read_timeout_s,
        channels=channels,
    )
    ahead = most_ahead(prefetch_mb, batches.batch_bytes, num_workers)
    return iterate(batches, ahead, start_step, num_workers)


def sequential_batches(
    source: Source,
    batch: int,
    canvas_px: int,
    num_threads: int | None = None,
    read_timeout_s: float = READ_TIMEOUT_S,
    channels: int = 3,
) -> Generator[EvalBatch, None, None]:
    """One pass over the source in order, loading ahead; `close()` as for `make_loader`.

    Every batch has `batch` images, so that a compiled function sees one shape.

    Raises:
        ValueError: `batch` below 1.
    """
    if batch < 1:
        raise ValueError(f"batch={batch} must be at least 1; use 64")
    threads = num_threads or default_threads()
    batches = _SequentialBatches(source, batch, canvas_px, threads, read_timeout_s, channels)
    return iterate(batches, AHEAD)


def default_threads(num_workers: int = 0) -> int:
    """Decoding threads per process: the cores divided among the processes, 1..16."""
    return min(16, max(1, (os.cpu_count() or 1) // max(1, num_workers)))


@dataclass(frozen=True)
class _SequentialBatches:
    source: Source
    batch: int
    canvas_px: int
    num_threads: int
    read_timeout_s: float
    channels: int

    @cached_property
    def _memory(self) -> CanvasMemory:
        return CanvasMemory()

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch)

    def __getitem__(self, step: int) -> EvalBatch:
        first = step * self.batch
        index = np.arange(first, min(first + self.batch, len(self.source)))
        canvas, size, label, shown, problems = load(
            self.source,
            index,
            index.tolist(),
            batch=self.batch,
            canvas_px=self.canvas_px,
            num_threads=self.num_threads,
            read_timeout_s=self.read_timeout_s,
            memory=self._memory,
            channels=self.channels,
        )
        return EvalBatch(canvas=canvas, size=size, label=label, valid=shown >= 0, problems=problems)
