"""Bringing a pipeline up to date: whatever is not done is run, one stage after the other.

A stage whose inputs have changed gets a new folder; the old one is renamed to ``NAME.KEY``, never
deleted, and taken back should its inputs return.
"""

import itertools
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from dinojax.runtime.errors import CheckpointError
from dinojax.runtime.lock import locked
from dinojax.stages.child import Children
from dinojax.stages.declare import Stage
from dinojax.stages.examine import Verdict, examine
from dinojax.stages.given import reads_stage
from dinojax.stages.record import read_record, write_record
from dinojax.stages.report import FILE, write_report


class StageError(RuntimeError):
    """A stage has failed; `code` is what its process ended with."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def check(stages: Sequence[Stage]) -> None:
    """All that can be known before anything runs.

    Raises:
        ValueError or FileNotFoundError: a stage cannot run; names it.
    """
    others = {stage.name: stage.given for stage in stages}
    for stage in stages:
        try:
            stage.given.check(others)
            if not reads_stage(stage.given):
                stage.given.records(others)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"stage {stage.name}: {error}") from error


def survey(stages: Sequence[Stage], workdir: str | os.PathLike[str]) -> list[Verdict]:
    """What is done and what would run, parents first.

    Raises: as `examine`.
    """
    verdicts: dict[str, Verdict] = {}
    for stage in stages:
        verdicts[stage.name] = examine(stage, Path(workdir), verdicts)
    return list(verdicts.values())


def run(
    stages: Sequence[Stage], workdir: str | os.PathLike[str], launcher: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Run what is missing, and return what is written to ``pipeline.json``.

    Args:
        stages: parents first.
        launcher: command that starts training, with a configuration, a workdir and flags added to
            it, as the scripts in ``launch/``; none: on this machine.

    Raises:
        StageError: a stage has failed.
        dinojax.runtime.errors.PreemptedError: SIGTERM; what ran has saved.
        ValueError or FileNotFoundError: as `examine`.
    """
    root = Path(workdir)
    # Waits: a process may have been killed without its stage, which is not to run a second time.
    with locked(root, "dinojax.pipeline", wait_s=math.inf) as lock, Children(lock) as children:
        verdicts: dict[str, Verdict] = {}
        for stage in stages:
            verdict = examine(stage, root, verdicts)
            if verdict.done is None:
                verdict = _make_room(verdict, root, verdicts)
            verdicts[stage.name] = verdict
            if verdict.done is None:
                logging.info("stage %s: %s", stage.name, verdict.reason)
                write_report(stages, verdicts, root / FILE)
                verdicts[stage.name] = _run(verdict, root, children, launcher)
            else:
                logging.info("stage %s is done", stage.name)
        return write_report(stages, verdicts, root / FILE)


def _make_room(verdict: Verdict, root: Path, verdicts: Mapping[str, Verdict]) -> Verdict:
    """Set a folder of other inputs aside, and take one of these back if there is one."""
    assert verdict.begin is not None
    name, key = verdict.stage.name, verdict.begin["key"]
    folder, known = root / name, read_record(root / name)
    if known is not None and known["key"] == key:
        return verdict
    if folder.exists() and any(folder.iterdir()):
        aside = _free(folder, "unknown" if known is None else known["key"])
        folder.rename(aside)
        logging.info("stage %s: %s; the folder is %s now", name, verdict.reason, aside)
    earlier = root / f"{name}.{key}"
    if not earlier.exists():
        return verdict
    if folder.exists():
        folder.rmdir()  # empty
    earlier.rename(folder)
    logging.info("stage %s: taken back from %s", name, earlier)
    return examine(verdict.stage, root, verdicts)


def _free(folder: Path, suffix: str) -> Path:
    """``NAME.SUFFIX``, or with a number where this is taken."""
    numbered = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    paths = (folder.with_name(f"{folder.name}.{suffix}{number}") for number in numbered)
    return next(path for path in paths if not path.exists())


def _run(verdict: Verdict, root: Path, children: Children, launcher: tuple[str, ...]) -> Verdict:
    """A stage after its end."""
    assert verdict.begin is not None and verdict.placed is not None
    name, folder, given = verdict.stage.name, root / verdict.stage.name, verdict.placed
    folder.mkdir(exist_ok=True)
    write_record(folder, verdict.begin)
    started = time.monotonic()
    code = children.run(given.command(folder, launcher))
    if code:
        raise StageError(
            f"stage {name} ended with code {code}, for the reason above; once that is mended, the "
            "same command goes on from here",
            code,
        )
    try:
        outcome = given.finish(folder)
    except (ValueError, KeyError, OSError, CheckpointError) as error:
        raise StageError(f"stage {name} ended well, but not all is there: {error}", 1) from error
    seconds = round(time.monotonic() - started, 1)
    record = {**verdict.begin, "done": {**outcome._asdict(), "seconds": seconds}}
    write_record(folder, record)
    return verdict._replace(done=record)
