"""Files that the processes of a run write together: who writes which, and when all are there."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from dinojax.runtime.agreement import await_visible
from dinojax.runtime.cluster import gather


def own_missing(paths: Sequence[Path]) -> list[int]:
    """Places of the files that this process is to write: every n-th that is missing; a barrier.

    The same list of paths in all processes; the first one says what is missing.
    """
    here = ""
    if jax.process_index() == 0:
        here = np.packbits([not path.exists() for path in paths]).tobytes().hex()
    packed = np.frombuffer(bytes.fromhex(gather("missing files", here)[0]), np.uint8)
    missing = np.flatnonzero(np.unpackbits(packed, count=len(paths)))
    return missing[jax.process_index() :: jax.process_count()].tolist()


def await_all(paths: Sequence[Path]) -> None:
    """Until every process has written its files, and all of them are visible here.

    Raises:
        ValueError: they are not.
    """
    gather("files are written", "")
    for path in paths:
        await_visible(path, "another process", path.exists)
