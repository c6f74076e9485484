"""Work in threads, none of which can hang the program: each item has a time limit.

`concurrent.futures` joins its threads when the interpreter exits, so that one read that never
returns (a dead network mount) would keep the process for ever. These are daemons and are left
behind.
"""

import queue
import threading
import time
from collections.abc import Callable

from absl import logging

WARN_AFTER = 0.1
"""Share of the limit after which a slow item is logged."""


class StorageError(RuntimeError):
    """The storage failed, not the record: too slow, or an error that may be gone in a minute."""


def for_each(
    task: Callable[[int], None],
    count: int,
    *,
    num_threads: int,
    limit_s: float,
    describe: Callable[[int], str],
) -> None:
    """Call ``task(i)`` for every ``i`` in ``0..count - 1``; returns when all have returned.

    Args:
        limit_s: seconds that one call may take; the first that needs a tenth of it is logged.
        describe: what item i is, for messages.

    Raises:
        StorageError: a call takes longer than `limit_s`; names the item.
        Exception: what a task raised; the items not begun are dropped.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    begun: dict[int, float] = {}
    errors: list[Exception] = []
    pending, lock = count, threading.Lock()
    ended = threading.Event()  # all are done, one has failed, or we gave up; nothing more is begun

    def work() -> None:
        nonlocal pending
        while not ended.is_set():
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            begun[item] = time.monotonic()
            try:
                task(item)
            except Exception as error:
                errors.append(error)
                ended.set()
                return
            del begun[item]
            with lock:
                pending -= 1
                if not pending:
                    ended.set()

    for item in range(count):
        todo.put(item)
    for _ in range(min(num_threads, count)):
        threading.Thread(target=work, name="decode", daemon=True).start()
    warned = False
    try:
        # Woken at the end only: to wake this thread after each item costs a twentieth of the time.
        while count and not ended.wait(limit_s * WARN_AFTER / 2):
            now = time.monotonic()  # a copy of the dict: the threads go on writing to it
            item, since = min(list(begun.items()), key=lambda entry: entry[1], default=(0, now))
            seconds = now - since
            if seconds > limit_s:
                raise StorageError(_too_slow(describe(item), limit_s))
            if seconds > limit_s * WARN_AFTER and not warned:
                warned = True
                logging.warning("%s has been read for %.3g s", describe(item), seconds)
    finally:
        ended.set()
    if errors:
        raise errors[0]


def _too_slow(item: str, limit_s: float) -> str:
    return (
        f"{item} could not be read within data.read_timeout_s={limit_s:g} s; check the storage "
        "that holds it and run the same command again, or raise the limit"
    )
