"""Batches on their way from a worker process: arrays in shared memory that nobody has to clean up.

Grain moves bare arrays through named shared memory, where a batch on its way when the loader closes
stays behind, and pickles all else through pipes, copying it three times. Here the arrays lie in a
file without a name, of which only the descriptor travels: the kernel frees it with its last holder,
however the processes end, and it does not count against the 64 MB that containers give /dev/shm.
"""

import itertools
import mmap
import os
import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import reduction
from typing import Any

ALIGNMENT = 64
"""Bytes; arrays aligned to them reach a CPU device without a copy."""


@dataclass(frozen=True)
class Parcel:
    """A batch that Grain takes for one opaque object."""

    batch: Any

    def __reduce__(self) -> tuple[type["_Sent"], tuple[Any, Sequence[int]]]:
        """Pickle the arrays, as they are, into a file that only this descriptor knows."""
        arrays: list[pickle.PickleBuffer] = []
        header = pickle.dumps(self.batch, protocol=5, buffer_callback=arrays.append)
        parts = [memoryview(header), *(array.raw() for array in arrays)]
        sizes = [part.nbytes for part in parts]
        with _nameless_file() as file:
            for start, part in zip(_starts(sizes), parts, strict=False):
                file.seek(start)
                file.write(part)
            file.truncate(_starts(sizes)[-1])
            return _Sent, (reduction.DupFd(file.fileno()), sizes)


@dataclass(frozen=True)
class Parcels:
    """The sequence `batches`, each in a parcel."""

    batches: Any

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> Parcel:
        return Parcel(self.batches[step])


@dataclass(frozen=True)
class _Sent:
    """A parcel that has arrived in another process.

    It is opened when it is used: at its close the loader throws away what has arrived, and the
    worker that would have to hand the descriptor over may be gone by then.
    """

    descriptor: Any
    sizes: Sequence[int]

    @cached_property
    def batch(self) -> Any:
        """The batch; its arrays lie in the file's memory and free it when they go."""
        file = self.descriptor.detach()
        starts = _starts(self.sizes)
        try:
            memory = memoryview(mmap.mmap(file, starts[-1]))
        finally:
            os.close(file)
        header, *arrays = (
            memory[start : start + size] for start, size in zip(starts, self.sizes, strict=False)
        )
        return pickle.loads(header, buffers=arrays)


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where parts of these sizes begin, and the end of the last."""
    aligned = (-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)
    return list(itertools.accumulate(aligned, initial=0))


def _nameless_file() -> Any:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("dinojax-batch"), "w+b")
    return tempfile.TemporaryFile()
