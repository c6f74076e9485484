"""A folder that one process holds alone."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Hold the folder against a second process; the lock ends with this one.

    Where file systems have no locks, there is none.

    Args:
        command: that writes there, for the message.

    Raises:
        ValueError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{folder} is being written by another {command}; wait for it"
                ) from None
        yield
    finally:
        os.close(handle)
