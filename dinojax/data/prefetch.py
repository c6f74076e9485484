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
from dataclasses import dataclass
from typing import Any

import grain
from absl import flags


def iterate(
    batches: Any, prefetch: int, start_step: int = 0, num_workers: int = 0
) -> Generator[Any, None, None]:
    """Items of the sequence `batches` from `start_step` on; `close()` ends threads and workers.

    Args:
        batches: random access by step (`__len__`, `__getitem__`), picklable if there are workers.
        prefetch: items that each process keeps ready.
        num_workers: processes; 0 loads in one thread of this one.
    """
    parcels: Any = _Parcels(batches)
    steps = grain.MapDataset.source(parcels)[start_step:]
    if not num_workers:
        dataset = steps.to_iter_dataset(grain.ReadOptions(1, prefetch))
    else:
        if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which a notebook never parses
            flags.FLAGS.mark_as_parsed()
        # A worker decodes in the foreground: its own output buffer is the prefetch.
        workers = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=prefetch)
        dataset = steps.to_iter_dataset(grain.ReadOptions(0, 0)).mp_prefetch(
            workers, _follow_parent
        )
    with contextlib.closing(iter(dataset)) as iterator:
        for parcel in iterator:
            yield parcel.batch


@dataclass(frozen=True)
class _Parcel:
    """A batch that Grain takes for one opaque object.

    Grain moves bare arrays through shared memory, where a batch on its way at the loader's close
    stays until Python's resource tracker complains. Parcels are pickled through a pipe.
    """

    batch: Any


@dataclass(frozen=True)
class _Parcels:
    batches: Any

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> _Parcel:
        return _Parcel(self.batches[step])


def _follow_parent(worker: int, count: int) -> None:
    """Leave Ctrl-C to the parent, which closes its workers, and do not outlive its SIGKILL."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None  # only workers run this
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=wait, daemon=True).start()
