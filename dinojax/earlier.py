"""What an earlier run has left, by the words of the configuration."""

import os
from pathlib import Path

from dinojax.runtime.checkpoint import DIRECTORY
from dinojax.runtime.stored_state import read_state
from dinojax.typing import Params


def find_checkpoint(given: str, key: str) -> str:
    """The directory of a checkpoint: `given`, or the newest one of a workdir.

    Args:
        key: of the configuration that names it.

    Raises:
        FileNotFoundError: there is none.
    """
    if Path(given).name.isdigit():
        return given
    folder = Path(given) / DIRECTORY
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if not steps:
        raise FileNotFoundError(
            f"{key}={given!r} has no checkpoint in {folder}; give the workdir of a run, or one of "
            f"its checkpoints, as in runs/x/{DIRECTORY}/400 (in a bucket always that)"
        )
    return os.fspath(folder / str(max(steps)))


def read_teacher(path: str, wanted: Params) -> Params:
    """The EMA teacher of a checkpoint, or the parts of it that are asked for.

    Raises: as `read_state`.
    """
    return read_state(path, {"teacher": wanted}, part=True)["teacher"]
