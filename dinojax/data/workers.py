"""Worker processes that load whole batches and hand them over through shared memory.

Grain's own (`mp_prefetch`) keep 2 n + 2 batches each where n are asked for, and leave the shared
memory of a batch that is on its way when the loader closes. Here a batch lies in a file without a
name, of which only the descriptor travels: the kernel frees it with its last holder, however the
processes end, and it does not count against the 64 MB that containers give to /dev/shm.
"""

import itertools
import mmap
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

ALIGNMENT = 64
"""Bytes; arrays aligned to them reach a CPU device without a copy."""


class Workers:
    """Spawned processes that answer ``ask(step)`` with ``batches[step]``, taken in that order.

    Spawning imports the caller's ``__main__`` again. Every step goes to the next worker in turn.
    """

    def __init__(self, batches: Any, count: int):
        context = multiprocessing.get_context("spawn")
        self._processes, self._pipes = [], []
        self._ask, self._take = itertools.cycle(range(count)), itertools.cycle(range(count))
        for i in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs,), name=f"data-worker-{i}", daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        for i in range(count):
            self._talk(i, lambda pipe: _send(pipe, batches))

    def ask(self, step: int) -> None:
        """Have `step` loaded."""
        self._talk(next(self._ask), lambda pipe: pipe.send(step))

    def take(self) -> Any:
        """The batch asked for first, waited for.

        Raises:
            RuntimeError: its worker has died.
            Exception: what `batches` raised in the worker, with its traceback as a note.
        """
        batch, error = self._talk(next(self._take), _receive)
        if error is not None:
            raise error
        return batch

    def close(self) -> None:
        """End all workers at once, whatever they do: they hold nothing that could be lost."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def _talk(self, worker: int, say: Callable[[Connection], Any]) -> Any:
        try:
            return say(self._pipes[worker])
        except (EOFError, OSError) as error:
            process = self._processes[worker]
            process.join(timeout=5)
            raise RuntimeError(
                f"data worker {worker} has ended with exit code {process.exitcode} (-9: killed, "
                "mostly for want of memory); use fewer data.num_workers or a smaller "
                "data.prefetch_mb"
            ) from error


def _work(pipe: Connection) -> None:
    """What a worker does until its parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which closes its workers
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        batches = _receive(pipe)
        while True:
            _send(pipe, _load(batches, pipe.recv()))
    except (EOFError, OSError):
        pass


def _follow_parent() -> None:
    """Do not outlive the parent's SIGKILL, not even in a read that hangs."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # only workers run this
    parent.join()
    os._exit(1)


def _load(batches: Any, step: int) -> tuple[Any, Exception | None]:
    try:
        return batches[step], None
    except Exception as error:
        error.add_note(f"In a data worker:\n{traceback.format_exc()}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # not every exception can travel; its sentence can
            return None, RuntimeError(f"{type(error).__name__}: {error}")
        return None, error


def _send(pipe: Connection, value: Any) -> None:
    """Pickle `value`, its arrays as they are, into a file that only this descriptor knows."""
    arrays: list[pickle.PickleBuffer] = []
    header = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    parts = [memoryview(header), *(array.raw() for array in arrays)]
    sizes = [part.nbytes for part in parts]
    with _nameless_file() as file:
        for start, part in zip(_starts(sizes), parts, strict=False):
            file.seek(start)
            file.write(part)
        file.truncate(_starts(sizes)[-1])
        pipe.send(sizes)
        reduction.send_handle(pipe, file.fileno(), None)


def _receive(pipe: Connection) -> Any:
    """What `_send` sent; its arrays lie in the file's memory and free it when they go."""
    sizes = pipe.recv()
    file = reduction.recv_handle(pipe)
    try:
        memory = memoryview(mmap.mmap(file, _starts(sizes)[-1]))
    finally:
        os.close(file)
    header, *arrays = (
        memory[start : start + size] for start, size in zip(_starts(sizes), sizes, strict=False)
    )
    return pickle.loads(header, buffers=arrays)


def _starts(sizes: list[int]) -> list[int]:
    """Where parts of these sizes begin, and the end of the last."""
    aligned = (-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)
    return list(itertools.accumulate(aligned, initial=0))


def _nameless_file() -> Any:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("dinojax-batch"), "w+b")
    return tempfile.TemporaryFile()
