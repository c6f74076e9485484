"""Going back to an older checkpoint and around the steps that spoilt the run since.

When k steps in a row were not finite, the state itself is bad: no batch brings it back. The run
then continues from a checkpoint before the first of them, *without* the steps from that checkpoint
up to the k-th bad one: they are no-ops, and their batches stay unused. ``rollbacks.json`` in the
workdir lists these windows, so that the run is still a function of its workdir's list, the
configuration and the data, however often it is killed. Each checkpoint lists those behind it.
The guardian asks for the same when a run collapses with finite numbers.
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
    """Steps `first` to `end - 1` are not to be: they were not finite, or what else is `wrong`."""

    def __init__(self, first: int, end: int, wrong: str = "were not finite"):
        super().__init__(f"steps {first} to {end - 1} {wrong}")
        self.first, self.end, self.wrong = first, end, wrong


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
    step_of: Callable[[State], int],
    workdir: str | os.PathLike[str],
    total_steps: int,
) -> Result:
    """Run to the end, around all windows, with a new window for each `RollBack`.

    Every attempt starts as a new process would: from what is on disk. There is one state at a time.

    Args:
        attempt: ``(checkpoint, state, first_step, until)`` runs steps ``first_step .. until - 1``
            and saves the state at `until`.
        resume: the newest checkpoint that can be used and its state; (None, the initial state).
        restore: the state of one checkpoint; raises if it cannot be used.
        advance: a state with another step and no refused ones before it, else the same.
        series: what is saved along the run, the checkpoints that it resumes from first.
        step_of: of a state; an initial one may come from another run.

    Raises:
        ValueError: a state that has gone further than `total_steps`.
        DivergedError: nothing to go back to.
    """
    latest, state = resume()
    for checkpoints in series:  # what an attempt saved that went further is another run's by now
        checkpoints.delete_after(step_of(state))
    while True:
        windows, begun = _windows_of_all(workdir), step_of(state)
        if begun > total_steps:
            raise ValueError(
                f"{workdir} has been trained for {begun} steps, more than train.steps="
                f"{total_steps}; use train.steps={begun} or more, or a new workdir"
            )
        first = after_windows(begun, windows)
        if first != begun:
            logging.info("steps %d to %d are no-ops: %s", begun, first - 1, FILE)
            state = advance(state, first)
        until = min((w.first for w in windows if w.first > first), default=total_steps)
        result, bad, wrong = None, None, ""
        try:
            result = attempt(latest, state, first, until)
            if until == total_steps:
                return result
        except RollBack as request:
            bad, wrong = Window(request.first, request.end), request.wrong
        # The request is gone here, and with its traceback the state that it was raised over.
        del state, result
        latest, state = (
            resume() if bad is None else _go_back(bad, wrong, windows, restore, series, workdir)
        )


def _go_back(
    bad: Window,
    wrong: str,
    windows: Sequence[Window],
    restore: Callable[[int], State],
    series: Sequence[Checkpoints],
    workdir: str | os.PathLike[str],
) -> tuple[int, State]:
    """In this order: killed in between, the run meets the same bad steps and goes back again."""
    limit, last = before_windows(bad.first, windows), bad.end - 1
    for target in [step for step in reversed(series[0].steps()) if step < limit]:
        try:
            state = restore(target)
            break
        except CheckpointError as error:
            logging.warning("skipped: %s", error)
    else:
        raise DivergedError(
            f"steps {bad.first} to {last} {wrong}, and there is no checkpoint before step {limit} "
            f"to go back to; see {BUNDLES} in {workdir} for the cause of what is not finite, or "
            "lower the learning rate in a new workdir"
        )
    for checkpoints in series:
        checkpoints.delete_after(target)
    if jax.process_index() == 0:
        entries = [window._asdict() for window in (*windows, Window(target, bad.end))]
        replace_text(Path(workdir) / FILE, json.dumps(entries) + "\n")
    logging.warning(
        "steps %d to %d %s: going back to step %d; from there to step %d all are no-ops",
        *(bad.first, last, wrong, target, last),
    )
    return target, state
