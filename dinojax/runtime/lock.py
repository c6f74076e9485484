"""A folder that one command holds alone."""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from absl import logging

FILE = ".lock"
POLL_S = 0.2
BUCKET = re.compile(r"[a-z][a-z0-9+.-]+:/")
"""As in ``gs://bucket/run``, of which `Path` keeps one slash."""


@contextlib.contextmanager
def locked(folder: Path, command: str, *, wait_s: float = 0.0) -> Iterator[int]:
    """Hold the folder against a second process; gives the descriptor of its file `FILE`.

    The lock ends with this process and with those that it hands the descriptor to, however they
    end. Where file systems have no locks, there is none.

    Args:
        folder: created if absent.
        command: that writes there, for messages.
        wait_s: how long to wait for another process that holds it.

    Raises:
        ValueError: another process holds it, or it is no path.
    """
    if BUCKET.match(os.fspath(folder)):
        raise ValueError(
            f"{folder} is in a bucket, where nothing can be locked or appended to; use a "
            "directory, which may be a mounted file system"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # To be written: on NFS a lock that excludes others is one of a file open for writing.
    handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(OSError):
            _take(handle, folder, command, wait_s)
        yield handle
    finally:
        os.close(handle)


def _take(handle: int, folder: Path, command: str, wait_s: float) -> None:
    until, told = time.monotonic() + wait_s, False
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            left = until - time.monotonic()
        if left <= 0:
            raise ValueError(
                f"{folder} is being written by another {command}; wait for it, or end it first"
            )
        if not told:
            logging.warning("waiting for another %s in %s, or what it has left", command, folder)
            told = True
        time.sleep(min(POLL_S, left))
