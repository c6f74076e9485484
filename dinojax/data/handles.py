"""`Handles`: files that are opened when first read, shared by threads, and never pickled."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from dinojax.data.threads import StorageError

T = TypeVar("T")


class Handles(Generic[T]):
    """What `open` returns for a number, at most `limit` of them kept.

    A dataset may have more shards than a process may have open files (1,024 by default on Linux),
    so the handle used longest ago is dropped; it closes itself when its last reader lets go of it.
    A pickled copy starts with nothing open.

    Args:
        open: number -> handle; picklable, and called by one thread at a time.
        limit: handles kept open.
    """

    def __init__(self, open: Callable[[int], T], limit: int = 256):
        self._open, self._limit = open, limit
        self._kept: OrderedDict[int, T] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, number: int) -> T:
        """The handle of `number`, opened now if it is not open yet.

        Raises:
            StorageError: the file has gone; whether it is still open must not decide anything.
        """
        with self._lock:
            if number not in self._kept:
                try:
                    self._kept[number] = self._open(number)
                except FileNotFoundError as error:
                    raise StorageError(f"{error}: gone since the source was opened") from error
                if len(self._kept) > self._limit:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(number)
            return self._kept[number]

    def __getstate__(self) -> dict[str, Any]:
        return {"open": self._open, "limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)
