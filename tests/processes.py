"""Sequences for worker processes, which can import this module but no test."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np


class Logged:
    """Leaves a file for every step that is loaded."""

    def __init__(self, directory: Path):
        self.directory = directory

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, step: int) -> int:
        (self.directory / str(step)).touch()
        return step


class Steady:
    """Endless batches of half a megabyte, each of one value."""

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, step: int) -> dict[str, Any]:
        return {"canvas": np.full((8, 144, 144, 3), step % 251, np.uint8), "step": step}


class Deadly(Steady):
    """Kills the process that loads it, as the kernel does when memory runs out."""

    def __getitem__(self, step: int) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}
