"""Batches by step: the record behind (step, slot) is a function of (seed, step, slot) alone.

Slot ``s`` of step ``t`` is position ``p = t * global_batch + s`` in an endless sequence that runs
through the source once per epoch, in a new order each time. Position is all there is: hosts take
contiguous slots, workers take whole steps, and none of them can change what a batch holds. Resuming
is starting at another step; nothing is stored.

Grain supplies the permutation (random access, no memory) and the loading ahead (`prefetch.py`).
"""

import os
import sys
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypedDict

import grain
import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from dinojax.data.decode import make_scratch, read_image, to_canvas
from dinojax.data.prefetch import iterate
from dinojax.data.source import Source

Canvases = UInt8[np.ndarray, "b H W C"]
Sizes = Int32[np.ndarray, "b 2"]


class TrainBatch(TypedDict):
    """One host's part of a global batch."""

    canvas: Canvases
    size: Sizes  # (height, width) of the image at the canvas' top left
    index: Int64[np.ndarray, " b"]  # which records
    step: int


class EvalBatch(TypedDict):
    """Records in source order; the last batch is filled up with black images, not `valid`."""

    canvas: Canvases
    size: Sizes
    label: Int32[np.ndarray, " b"]  # -1: none
    valid: Bool[np.ndarray, " b"]


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
        channels: of the images, as for `dinojax.data.decode.decode_image`.

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
    channels: int = 3

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
        first = step * self.global_batch + self.process_index * host_batch
        index = record_indices(range(first, first + host_batch), len(self.source), self.seed)
        canvas, size, _ = _load(
            self.source, index, host_batch, self.canvas_px, self.num_threads, self.channels
        )
        return TrainBatch(canvas=canvas, size=size, index=index, step=step)


def make_loader(
    source: Source,
    *,
    global_batch: int,
    canvas_px: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    num_threads: int | None = None,
    prefetch: int = 2,
    process_index: int = 0,
    process_count: int = 1,
    channels: int = 3,
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
        prefetch: batches that each process keeps ready, at least 1.
        channels: of the images.

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
        channels=channels,
    )
    return iterate(batches, prefetch, start_step, num_workers)


def sequential_batches(
    source: Source,
    batch: int,
    canvas_px: int,
    num_threads: int | None = None,
    channels: int = 3,
) -> Generator[EvalBatch, None, None]:
    """One pass over the source in order, loading ahead; `close()` as for `make_loader`.

    Every batch has `batch` images, so that a compiled function sees one shape.

    Raises:
        ValueError: `batch` below 1.
    """
    if batch < 1:
        raise ValueError(f"batch={batch} must be at least 1; use 64")
    return iterate(
        _SequentialBatches(source, batch, canvas_px, num_threads or default_threads(), channels),
        prefetch=2,
    )


def default_threads(num_workers: int = 0) -> int:
    """Decoding threads per process: the cores divided among the processes, 1..16."""
    return min(16, max(1, (os.cpu_count() or 1) // max(1, num_workers)))


@dataclass(frozen=True)
class _SequentialBatches:
    source: Source
    batch: int
    canvas_px: int
    num_threads: int
    channels: int

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch)

    def __getitem__(self, step: int) -> EvalBatch:
        first = step * self.batch
        index = np.arange(first, min(first + self.batch, len(self.source)))
        canvas, size, label = _load(
            self.source, index, self.batch, self.canvas_px, self.num_threads, self.channels
        )
        valid = np.arange(self.batch) < len(index)
        return EvalBatch(canvas=canvas, size=size, label=label, valid=valid)


def _load(
    source: Source,
    index: Int64[np.ndarray, " n"],
    batch: int,
    canvas_px: int,
    num_threads: int,
    channels: int,
) -> tuple[Canvases, Sizes, Int32[np.ndarray, " b"]]:
    """(canvas, size, label) of these records, decoded in threads straight into place.

    Slots beyond the records hold black images of full size (so that nothing downstream divides by
    zero) and label -1.
    """
    canvas = np.zeros((batch, canvas_px, canvas_px, channels), np.uint8)
    size = np.full((batch, 2), canvas_px, np.int32)
    label = np.full(batch, -1, np.int32)

    thread = threading.local()

    def fill(slot: int) -> None:
        if not hasattr(thread, "scratch"):
            thread.scratch = make_scratch(canvas_px, channels)
        record = source[int(index[slot])]
        image = read_image(record, canvas_px, channels, thread.scratch)
        _, size[slot] = to_canvas(image, canvas_px, out=canvas[slot])
        if record.label is not None:
            label[slot] = record.label

    # Starting threads takes a millisecond per batch; a pool kept alive would have to be pickled,
    # owned and closed.
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        for _ in pool.map(fill, range(len(index))):
            pass
    return canvas, size, label
