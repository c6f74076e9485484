"""Steps with a non-finite loss or gradient: noticed without waiting for any step, and bundled.

Such a step changed nothing (`dinojax.ssl.step`), so that nothing is lost when it is noticed with
the next log. A *replay bundle* is what it takes to run the step again
(``python -m dinojax.replay BUNDLE``).
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging

from dinojax.runtime.atomic import replace_text
from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.rollback import BUNDLES, RollBack
from dinojax.typing import Array

FILE = "bundle.json"
CHECKPOINT = "checkpoint"
LIMIT = 8
"""Bundles of a workdir; further ones would hardly say more, and each may hold a checkpoint."""


class Refused(NamedTuple):
    """A step that changed nothing."""

    step: int
    in_a_row: int
    """How many up to this one."""
    values: dict[str, float]
    """All metrics of the step."""


class Refusals:
    """Finds the refused steps among those that are finished."""

    def __init__(self) -> None:
        self._pending: list[tuple[int, Mapping[str, Array]]] = []

    def push(self, step: int, metrics: Mapping[str, Array]) -> None:
        """Metrics of `step` on the device; they need not be finished."""
        self._pending.append((step, metrics))

    def before(self, step: int) -> list[Refused]:
        """Those below `step`, each once. All steps below it are finished."""
        ready = [(i, metrics) for i, metrics in self._pending if i < step]
        self._pending = self._pending[len(ready) :]
        counts = jax.device_get([metrics["refused_in_a_row"] for _, metrics in ready])
        return [
            Refused(i, int(count), {name: float(value) for name, value in metrics.items()})
            for (i, metrics), count in zip(ready, counts, strict=True)
            if count
        ]


class NonfiniteSteps:
    """What happens to refused steps: a line in the log, a bundle, and perhaps the way back.

    Args:
        workdir: bundles lie in ``bundles/step_N``. The first step of a row gets one, and the first
            after a resume, up to `LIMIT`.
        checkpoints: of the run. The one that a replay starts from is kept in the bundle, by hard
            links where the file system has them.
        describe: what else to write about a step, as JSON; called in the first process.
        rollback_after: raise `RollBack` at so many in a row; 0: never.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        checkpoints: Checkpoints,
        *,
        describe: Callable[[int], Mapping[str, Any]],
        rollback_after: int,
    ):
        self._root = Path(workdir) / BUNDLES
        self._checkpoints, self._describe = checkpoints, describe
        self._rollback_after = rollback_after
        self._last: int | None = None

    def __call__(self, refused: Refused) -> None:
        """Take note of one.

        Raises:
            RollBack: the last of `rollback_after` in a row, or a later one.
        """
        same_row = refused.in_a_row > 1 and self._last == refused.step - 1
        self._last = refused.step
        if not same_row:
            steps = self._checkpoints.steps()  # of all processes
            if jax.process_index() == 0:
                checkpoint = max((s for s in steps if s <= refused.step), default=None)
                try:
                    self._bundle(refused, checkpoint)
                except OSError as error:  # the run can do without
                    logging.warning("step %d was not finite; no bundle: %s", refused.step, error)
        if self._rollback_after and refused.in_a_row >= self._rollback_after:
            first = refused.step + 1 - refused.in_a_row
            raise RollBack(first, first + self._rollback_after)

    def _bundle(self, refused: Refused, checkpoint: int | None) -> None:
        path = self._root / f"step_{refused.step}"
        if path.exists():
            return
        if len(list(self._root.glob("step_*"))) >= LIMIT:
            logging.warning("step %d was not finite and changed nothing", refused.step)
            return
        draft = self._root / f".step_{refused.step}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        if checkpoint is not None:
            _copy(Path(self._checkpoints.path(checkpoint)), draft / CHECKPOINT)
        content = {
            "step": refused.step,
            "metrics": as_json(refused.values),
            "checkpoint": checkpoint,
            **self._describe(refused.step),
        }
        replace_text(draft / FILE, json.dumps(content, indent=2) + "\n")
        draft.rename(path)
        logging.warning(
            "step %d was not finite and changed nothing; to see why: python -m dinojax.replay %s",
            refused.step,
            path,
        )


def as_json(values: Mapping[str, float]) -> dict[str, float | str]:
    """JSON has no NaN and no infinity: as text, which `float` reads."""
    return {name: v if math.isfinite(v) else str(v) for name, v in values.items()}


def _copy(source: Path, target: Path) -> None:
    """By hard links: at no cost, and it stays when the original is deleted."""
    try:
        shutil.copytree(source, target, copy_function=os.link)
    except (OSError, shutil.Error):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
