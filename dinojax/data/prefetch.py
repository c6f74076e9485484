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
from absl import flags, logging

from dinojax.data.parcels import Parcels

AHEAD = 2
"""Batches that are worth loading ahead without workers."""

WORKER_HOLDS = 4
"""Batches that a Grain worker accounts for at least: one being loaded, one in its buffer, and as
many on this side."""


def most_ahead(prefetch_mb: int, batch_bytes: int, num_workers: int) -> int:
    """Batches that may be loaded ahead, `iterate`'s `ahead`, in this memory (MB of 10**6 bytes).

    As many as fit, up to `AHEAD`, or `WORKER_HOLDS` for each worker; at least 1. Memory that feeds
    fewer workers is warned of; one is started in any case, and takes its `WORKER_HOLDS`.
    """
    fitting = prefetch_mb * 10**6 // batch_bytes
    useful = num_workers * WORKER_HOLDS or AHEAD
    if num_workers and fitting < useful:
        logging.warning(
            "prefetch_mb=%d holds %d of the batches of %.1f MB, and each data worker takes %d: "
            "starting %d of %d; for all of them use %d",
            prefetch_mb,
            fitting,
            batch_bytes / 1e6,
            WORKER_HOLDS,
            workers_fed(fitting, num_workers),
            num_workers,
            -(-useful * batch_bytes // 10**6),
        )
    return max(1, min(fitting, useful))


def workers_fed(ahead: int, num_workers: int) -> int:
    """Of `num_workers`, those for which there are batches to load ahead, at least 1."""
    return max(1, min(num_workers, ahead // WORKER_HOLDS))


def iterate(
    batches: Any, ahead: int, start_step: int = 0, num_workers: int = 0
) -> Generator[Any, None, None]:
    """Items of the sequence `batches` from `start_step` on; `close()` ends threads and workers.

    Args:
        batches: random access by step (`__len__`, `__getitem__`), picklable if there are workers.
        ahead: items that may be loaded before they are asked for, at least 1; that, not the number
            of workers, bounds the memory. Each worker takes `WORKER_HOLDS` of them or more, so only
            `workers_fed` are started.
        num_workers: processes; 0 loads in one thread of this one.
    """
    parcels: Any = Parcels(batches)
    steps = grain.MapDataset.source(parcels)[start_step:]
    if not num_workers:
        dataset = steps.to_iter_dataset(grain.ReadOptions(1, ahead))
    else:
        if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which a notebook never parses
            flags.FLAGS.mark_as_parsed()
        fed = workers_fed(ahead, num_workers)
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
