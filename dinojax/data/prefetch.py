"""Loading ahead, in a thread or in worker processes.

What is asked for is a whole batch, by its step, so neither threads nor workers can change what a
batch holds or the order of batches. At most `ahead` batches are being loaded or wait to be taken:
that, not the number of workers, bounds the memory.
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from dinojax.data.workers import Workers


class _Loader(Protocol):
    def ask(self, step: int) -> None: ...
    def take(self) -> Any: ...
    def close(self) -> None: ...


def iterate(
    batches: Any, ahead: int, start_step: int = 0, num_workers: int = 0
) -> Generator[Any, None, None]:
    """Items of the sequence `batches` from `start_step` on; `close()` ends threads and workers.

    Args:
        batches: random access by step (`__len__`, `__getitem__`), picklable if there are workers.
        ahead: items that are loaded before they are asked for, at least 1.
        num_workers: processes, of which `ahead` keeps at most as many busy; 0 loads in a thread.
    """
    steps = range(start_step, len(batches))
    loader: _Loader = Workers(batches, min(num_workers, ahead)) if num_workers else _Thread(batches)
    try:
        for step in steps[:ahead]:
            loader.ask(step)
        for step in steps:
            batch = loader.take()
            if step + ahead in steps:
                loader.ask(step + ahead)
            yield batch
            del batch  # or it would live on while its successor is waited for
    finally:
        loader.close()


class _Thread:
    def __init__(self, batches: Any):
        self._batches, self._asked = batches, deque[Future[Any]]()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def ask(self, step: int) -> None:
        self._asked.append(self._pool.submit(self._batches.__getitem__, step))

    def take(self) -> Any:
        return self._asked.popleft().result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
