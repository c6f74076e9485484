"""Batches by step: the record behind (step, slot) is a function of (seed, step, slot) alone.

Slot ``s`` of step ``t`` is position ``p = t * global_batch + s`` in an endless sequence that runs
through the source once per epoch, in a new order each time. Position is all there is: hosts take
contiguous slots, workers take whole steps, and none of them can change what a batch holds. Resuming
is starting at another step; nothing is stored.

Grain supplies the permutation (random access, no memory) and the loading ahead (`prefetch.py`).
"""

import os
import sys
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TypedDict

import grain
import numpy as np
from jaxtyping import Bool, Int32, Int64

from dinojax.data.load import READ_TIMEOUT_S, Canvases, Problem, Sizes, load, substitutes
from dinojax.data.prefetch import iterate
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


def record_indices(
    positions: Iterable[int], num_records: int, seed: int
) -> Int64[np.ndarray, " b"]:
    """Records at these positions of the endless sequence, a new permutation in each epoch.

    The permutation is Grain's. `tests/data/test_pipeline.py` pins its values, so that a release of
    Grain that changes them is noticed before a resumed run meets other data.
    """
    order = grain.MapDataset.range(num_records).seed(seed).shuffle().repeat()
    return np.array([order[int(position)] for position in positions], np.int64)


@dataclass(frozen=True)
class StepBatches:
    """One host's training batches as a sequence: ``batches[41237]`` is what step 41237 saw.

    Attributes:
        source: where the records come from.
        global_batch: images per step over all hosts.
        canvas_px: side of the canvases.
        seed: of the order; 0 .. 2**32 - 1.
        process_index: this host; it holds slots ``[index * b, (index + 1) * b)``.
        process_count: hosts; ``b = global_batch / process_count``.
        num_threads: decoding threads.
        read_timeout_s: seconds that the reading of one image may take.

    Raises:
        ValueError: an empty source, or a number outside its range.
    """

    source: Source
    global_batch: int
    canvas_px: int
    seed: int
    process_index: int = 0
    process_count: int = 1
    num_threads: int = 1
    read_timeout_s: float = READ_TIMEOUT_S

    def __post_init__(self) -> None:
        if not len(self.source):
            raise ValueError("the source holds no records; give one that holds at least 1")
        if self.process_count < 1 or not 0 <= self.process_index < self.process_count:
            raise ValueError(
                f"process_index={self.process_index} must lie in 0..process_count - 1 with "
                f"process_count={self.process_count}; use 0 and 1"
            )
        if self.global_batch < 1 or self.global_batch % self.process_count:
            below = self.global_batch - self.global_batch % self.process_count
            raise ValueError(
                f"global_batch={self.global_batch} must be a positive multiple of "
                f"process_count={self.process_count}; use {max(below, self.process_count)}"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must lie in 0..2**32 - 1; use 0")
        if self.canvas_px < 1:
            raise ValueError(f"canvas_px={self.canvas_px} must be at least 1; use 512")

    def __len__(self) -> int:
        return sys.maxsize // self.global_batch

    def __getitem__(self, step: int) -> TrainBatch:
        host_batch = self.global_batch // self.process_count
        first = self.process_index * host_batch
        return self.read(step, range(first, first + host_batch))

    def read(self, step: int, slots: range) -> TrainBatch:
        """These slots of the global batch, whichever host they belong to."""
        positions = self._positions(step, slots)
        canvas, size, _, index, problems = load(
            self.source,
            self.drawn(step, slots),
            positions,
            batch=len(slots),
            canvas_px=self.canvas_px,
            num_threads=self.num_threads,
            read_timeout_s=self.read_timeout_s,
            instead=lambda position, _: substitutes(self.seed, position, range(len(self.source))),
        )
        return TrainBatch(canvas=canvas, size=size, index=index, problems=problems, step=step)

    def drawn(self, step: int, slots: range) -> Int64[np.ndarray, " b"]:
        """The records of these slots before any is replaced; nothing is read."""
        return record_indices(self._positions(step, slots), len(self.source), self.seed)

    def _positions(self, step: int, slots: range) -> range:
        return range(step * self.global_batch + slots.start, step * self.global_batch + slots.stop)


def make_loader(
    source: Source,
    *,
    global_batch: int,
    canvas_px: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    num_threads: int | None = None,
    read_timeout_s: float = READ_TIMEOUT_S,
    prefetch: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[TrainBatch, None, None]:
    """Iterate over `StepBatches` from `start_step` on, loading ahead.

    The iterator ends its threads and workers in `close()`: use ``with contextlib.closing(...)``.
    Without workers, decoding runs in threads of this process; codecs release the GIL, so that is
    enough up to about 16 cores. Workers are spawned, which imports the caller's ``__main__`` again,
    and hand batches over through pipes; each keeps up to `prefetch` of them ready.

    Args:
        start_step: the first step; the batches are the same as when starting from 0.
        num_workers: decoding processes, each of which loads whole batches.
        num_threads: decoding threads per process; None: the cores divided among the processes.
        read_timeout_s: seconds that the reading of one image may take before the iterator raises
            `dinojax.data.threads.StorageError`.
        prefetch: batches that each process keeps ready, at least 1.

    Raises:
        ValueError: a number outside its range.
    """
    for name, value, least in (
        ("start_step", start_step, 0),
        ("num_workers", num_workers, 0),
        ("prefetch", prefetch, 1),
    ):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}; use {least}")
    batches = StepBatches(
        source=source,
        global_batch=global_batch,
        canvas_px=canvas_px,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        num_threads=num_threads or default_threads(num_workers),
        read_timeout_s=read_timeout_s,
    )
    return iterate(batches, prefetch, start_step, num_workers)


def sequential_batches(
    source: Source,
    batch: int,
    canvas_px: int,
    num_threads: int | None = None,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> Generator[EvalBatch, None, None]:
    """One pass over the source in order, loading ahead; `close()` as for `make_loader`.

    Every batch has `batch` images, so that a compiled function sees one shape.

    Raises:
        ValueError: `batch` below 1.
    """
    if batch < 1:
        raise ValueError(f"batch={batch} must be at least 1; use 64")
    threads = num_threads or default_threads()
    batches = _SequentialBatches(source, batch, canvas_px, threads, read_timeout_s)
    return iterate(batches, prefetch=2)


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
        )
        return EvalBatch(canvas=canvas, size=size, label=label, valid=shown >= 0, problems=problems)
