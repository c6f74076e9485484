"""What an earlier run has left, by the words of the configuration.

``runs/x`` is the newest checkpoint of a workdir, ``runs/x/checkpoints/400`` one of them, and
``runs/x#small`` the student of that name in a run that had several.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from dinojax.runtime.checkpoint import DIRECTORY
from dinojax.runtime.stored_state import read_digests, read_state
from dinojax.typing import Params

STUDENT = "#"
"""Before the name of a student."""
STUDENTS = "students/"
"""Before the names of leaves in a checkpoint of several students."""


class Earlier(NamedTuple):
    """A checkpoint, and the student in it that is meant; None: it has one alone."""

    path: str
    student: str | None

    @property
    def step(self) -> int:
        return int(Path(self.path).name)

    @property
    def prefix(self) -> str:
        """Of the names of its leaves."""
        return "" if self.student is None else f"{STUDENTS}{self.student}/"

    def read(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Parts of a `TrainState` by their names. Raises: as `read_state`."""
        if self.student is None:
            return read_state(self.path, wanted, part=True)
        nested = {"students": {self.student: wanted}}
        return read_state(self.path, nested, part=True)["students"][self.student]

    def read_teacher(self, wanted: Params) -> Params:
        """Its EMA teacher, or the parts of it that are asked for. Raises: as `read_state`."""
        return self.read({"teacher": wanted})["teacher"]


def find_earlier(given: str, key: str) -> Earlier:
    """The checkpoint that `key` of the configuration names.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it does not say which student, or names one that is not there.
        dinojax.runtime.errors.CheckpointError: it is damaged.
    """
    where, _, student = given.partition(STUDENT)
    path = find_checkpoint(where, key)
    leaves = (name for name in read_digests(path) if name.startswith(STUDENTS))
    students = sorted({name.split("/")[1] for name in leaves})
    if students and student not in students:
        working = ", ".join(f"{where}{STUDENT}{name}" for name in students)
        raise ValueError(f"{key}={given!r} is of a run with several students; use {working}")
    if student and not students:
        raise ValueError(f"{key}={given!r} is of a run with one student, without name; use {where}")
    return Earlier(path, student or None)


def find_checkpoint(given: str, key: str) -> str:
    """`find_earlier` of a workdir or checkpoint, whichever student is meant."""
    if Path(given).name.isdigit():
        return given
    folder = Path(given) / DIRECTORY
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if not steps:
        raise FileNotFoundError(
            f"{key}={given!r} has no checkpoint in {folder}; give the workdir of a run, or one of "
            f"its checkpoints, as in runs/x/{DIRECTORY}/400 (in a bucket always that), or for "
            "init.from a backbone: a .safetensors file, or a snapshot as in runs/x/snapshots/400"
        )
    return os.fspath(folder / str(max(steps)))
