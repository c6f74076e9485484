"""Memory for canvases, used again: a batch's memory serves the next batch once nobody holds it."""

import math
import weakref

import numpy as np
from jaxtyping import UInt8

IDLE = 4
"""Batches whose memory is kept while nobody holds it."""


class CanvasMemory:
    """Where batches of canvases lie, any number of which may be held at a time.

    New memory for each batch costs a twentieth of the time of decoding it: the system has to clear
    every page before it hands it out. A pickled copy starts empty.
    """

    def __init__(self) -> None:
        self._idle: dict[int, list[np.ndarray]] = {}

    def take(self, shape: tuple[int, int, int, int]) -> UInt8[np.ndarray, "B H W C"]:
        """Canvases of undefined content.

        They are the holder's, with every view of them (a device array without a copy included):
        the memory comes back when the last of these is gone.
        """
        count = math.prod(shape)
        kept = self._idle.setdefault(count, [])
        try:
            memory = kept.pop()
        except IndexError:
            memory = np.empty(count, np.uint8)
        # NumPy's views refer to the array that owns the memory, not to each other; through a
        # buffer, this array is where they all lead.
        canvases = np.frombuffer(memory.data, np.uint8).reshape(shape)
        owner = canvases.base
        assert isinstance(owner, np.ndarray)
        weakref.finalize(owner, _keep, kept, memory).atexit = False
        return canvases

    def __reduce__(self) -> tuple[type["CanvasMemory"], tuple[()]]:
        return CanvasMemory, ()


def _keep(kept: list[np.ndarray], memory: np.ndarray) -> None:
    if len(kept) < IDLE:
        kept.append(memory)
