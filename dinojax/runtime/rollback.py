"""Going back to an older checkpoint and around the steps that spoilt the run since.

When k steps in a row were not finite, the state itself is bad: no batch brings it back. The run
then continues from a checkpoint before the first of them, *without* the steps from that checkpoint
up to the k-th bad one: they are no-ops, and their batches stay unused. ``rollbacks.json`` in the
workdir lists these windows, so that the run is still a function of its workdir's list, the
configuration and the data, however often it is killed. Each checkpoint lists those behind it.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
from absl import logging

from dinojax.runtime.atomic import replace_text
from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.cluster import gather
from dinojax.runtime.errors import CheckpointError, DivergedError

FILE = "rollbacks.json"
BUNDLES = "bundles"
"""Where the replay bundles of the workdir are."""
State = Any
Result = TypeVar("Result")


class Window(NamedTuple):
    """Steps ``first .. end - 1`` are no-ops."""

    first: int
    end: int


class RollBack(Exception):  # noqa: N818 - a request to `run_segments`, which always answers it
    """Steps `first` to `end - 1` were not finite."""

    def __init__(self, first: int, end: int):
        super().__init__(f"steps {first} to {end - 1} were not finite")
        self.first, self.end = first, end


def read_windows(workdir: str | os.PathLike[str]) -> list[Window]:
    """In the order in which they were added; none without a file."""
    path = Path(workdir) / FILE
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [Window(entry["first"], entry["end"]) for entry in entries]


def _windows_of_all(workdir: str | os.PathLike[str]) -> list[Window]:
    """What process 0 reads, in all processes: storage may show a new file to some of them later."""
    return [Window(*one) for one in json.loads(gather(FILE, json.dumps(read_windows(workdir)))[0])]


def after_windows(step: int, windows: Sequence[Window]) -> int:
    """The next step to run for a state saved at `step`."""
    return max((window.end for window in windows if window.first == step), default=step)


def before_windows(step: int, windows: Sequence[Window]) -> int:
    """The checkpoint of a state that met `step` without having run a step since: the inverse."""
    starts = {window.end: window.first for window in reversed(windows)}
    while step in starts:
        step = starts[step]
    return step


def run_segments(
    attempt: Callable[[int | None, State, int, int], Result],
    *,
    resume: Callable[[], tuple[int | None, State]],
    restore: Callable[[int], State],
    advance: Callable[[State, int], State],
    series: Sequence[Checkpoints],
    workdir: str | os.PathLike[str],
    total_steps: int,
    first_step: int = 0,
) -> Result:
    """Run to the end, around all windows, with a new window for each `RollBack`.

    Every attempt starts as a new process would: from what is on disk.

    Args:
        attempt: ``(checkpoint, state, first_step, until)`` runs steps ``first_step .. until - 1``
            and saves the state at `until`.
        resume: the newest checkpoint that can be used and its state; (None, the initial state).
        restore: the state of one checkpoint; raises if it cannot be used.
        advance: a state with another step and nothing else changed.
        series: what is saved along the run, the checkpoints that it resumes from first.
        first_step: of the initial state.

    Raises:
        DivergedError: nothing to go back to.
    """
    while True:
        windows = _windows_of_all(workdir)
        latest, state = resume()
        begun = first_step if latest is None else latest
        first = after_windows(begun, windows)
        if first != begun:
            logging.info("steps %d to %d are no-ops: %s", begun, first - 1, FILE)
            state = advance(state, first)
        until = min((w.first for w in windows if w.first > first), default=total_steps)
        try:
            result = attempt(latest, state, first, until)
        except RollBack as bad:
            del state
            _go_back(bad, windows, restore, series, workdir)
        else:
            if until == total_steps:
                return result


def _go_back(
    bad: RollBack,
    windows: Sequence[Window],
    restore: Callable[[int], State],
    series: Sequence[Checkpoints],
    workdir: str | os.PathLike[str],
) -> None:
    """In this order: killed in between, the run meets the same bad steps and goes back again."""
    limit = before_windows(bad.first, windows)
    earlier = [step for step in series[0].steps() if step < limit]
    target = next((step for step in reversed(earlier) if _usable(step, restore)), None)
    if target is None:
        raise DivergedError(
            f"{bad}, and there is no checkpoint before step {limit} to go back to; see {BUNDLES} "
            f"in {workdir} for their cause, or lower the learning rate in a new workdir"
        )
    for checkpoints in series:
        checkpoints.delete_after(target)
    if jax.process_index() == 0:
        entries = [window._asdict() for window in (*windows, Window(target, bad.end))]
        replace_text(Path(workdir) / FILE, json.dumps(entries) + "\n")
    logging.warning(
        "%s: going back to step %d; from there to step %d all are no-ops", bad, target, bad.end - 1
    )


def _usable(step: int, restore: Callable[[int], State]) -> bool:
    try:
        restore(step)
    except (CheckpointError, ValueError) as error:
        logging.warning("skipped: %s", error)
        return False
    return True
