"""Loading ahead with Grain, in a thread or in worker processes.

The element that Grain sees is a whole batch, so neither threads nor workers can change what a batch
holds or the order of batches.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from typing import Any

import grain
from absl import flags

from dinojax.data.parcels import Parcels

WORKER_HOLDS = 4
"""Batches that a Grain worker accounts for at least: one being loaded, one in its buffer, and as
many on this side."""


def iterate(
    batches: Any, ahead: int, start_step: int = 0, num_workers: int = 0
) -> Generator[Any, None, None]:
    """Items of the sequence `batches` from `start_step` on; `close()` ends threads and workers.

    Args:
        batches: random access by step (`__len__`, `__getitem__`), picklable if there are workers.
        ahead: items that may be loaded before they are asked for, at least 1; that, not the number
            of workers, bounds the memory. Each worker takes `WORKER_HOLDS` of them or more, so as
            many workers are started as it feeds, and one in any case.
        num_workers: processes; 0 loads in one thread of this one.
    """
    parcels: Any = Parcels(batches)
    steps = grain.MapDataset.source(parcels)[start_step:]
    if not num_workers:
        dataset = steps.to_iter_dataset(grain.ReadOptions(1, ahead))
    else:
        if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which a notebook never parses
            flags.FLAGS.mark_as_parsed()
        fed = max(1, min(num_workers, ahead // WORKER_HOLDS))
        # A worker loads in the foreground: its own output buffer, kept on both sides, is ahead.
        workers = grain.MultiprocessingOptions(
            fed, per_worker_buffer_size=max(1, ahead // fed // 2 - 1)
        )
        dataset = steps.to_iter_dataset(grain.ReadOptions(0, 0)).mp_prefetch(
            workers, _follow_parent
        )
    with contextlib.closing(iter(dataset)) as iterator:
        for parcel in iterator:
            yield parcel.batch
            del parcel  # or it would live on while its successor is waited for


def _follow_parent(worker: int, count: int) -> None:
    """Leave Ctrl-C and SIGTERM to the parent, which closes its workers; do not outlive it."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None  # only workers run this
        parent.join()
        os._exit(1)

    for shared in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group
        signal.signal(shared, signal.SIG_IGN)
    threading.Thread(target=wait, daemon=True).start()
