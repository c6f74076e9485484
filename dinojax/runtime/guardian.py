"""Looks at what a run says about itself, tells once what is wrong, and may end it or go back.

Alarms (`dinojax.runtime.alarms`) go to the log, to ``metrics.jsonl`` as ``alarms/NAME`` and to
``alarms.jsonl`` in the workdir. Of several students each has its own, ``STUDENT/NAME``.
"""

import json
import os
from collections import defaultdict, deque
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging

from dinojax.runtime.alarms import RECENT, RULES, Alarm, History, Scores, alarms
from dinojax.runtime.cluster import gather
from dinojax.runtime.metrics import FILE as METRICS_FILE
from dinojax.runtime.metrics import MetricWriter
from dinojax.runtime.rollback import RollBack

FILE = "alarms.jsonl"
ACTIONS = ("warn", "stop", "rollback")
EVALUATED = "teacher_student_distance"
"""A score that every evaluation has."""


class Told(NamedTuple):
    """An alarm of one of the students, or of the only one (no name)."""

    student: str
    alarm: Alarm

    @property
    def name(self) -> str:
        return f"{self.student}/{self.alarm.name}" if self.student else self.alarm.name


class Guardian:
    """Of one attempt of a run; all processes have one and decide alike.

    What is decided from scores the first process decides for all: they are computed on hosts, whose
    last bits may differ. Metrics of steps are the same everywhere.

    Args:
        writer: of the attempt, which has dropped what is to be done again.
        resumed_from: the checkpoint that it continues from; what was told up to there stays told.
        first_step: of the attempt; later than the checkpoint if steps between them are no-ops.
        action: one of `ACTIONS`. Whatever it is, nothing but telling happens at `total_steps`.
        ignore: names of rules that are not looked at.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        writer: MetricWriter,
        *,
        resumed_from: int | None,
        first_step: int,
        total_steps: int,
        action: str,
        ignore: Collection[str] = (),
    ):
        self._path, self._writer = Path(workdir) / FILE, writer
        self._action, self._ignore, self._total_steps = action, frozenset(ignore), total_steps
        self._evaluations: dict[str, list[tuple[int, Scores]]] = defaultdict(list)
        self._steps: dict[str, deque[tuple[int, Scores]]] = defaultdict(
            lambda: deque(maxlen=RECENT)
        )
        self._evaluated: list[int] = []
        self._resumed_from, self._first_step = resumed_from, first_step
        before = _lines(self._path)
        self._written = {(entry["step"], entry["name"]) for entry in before}
        reached = -1 if resumed_from is None else resumed_from
        told = [entry["name"] for entry in before if entry["step"] <= reached]
        self._told = set(_of_first("alarms told", told))
        if jax.process_index() == 0:
            for line in _lines(Path(workdir) / METRICS_FILE):
                if any(name.rpartition("/")[2] == EVALUATED for name in line):
                    self._note(line.pop("step"), line)
        self._evaluated = _of_first("evaluations", self._evaluated)
        self._why: str | None = None

    def scored(self, step: int, scores: Scores) -> None:
        """Take note of the scores of a state.

        Raises:
            RollBack: by the action ``rollback``.
        """
        self._note(step, scores)
        found = [(one.student, *one.alarm) for one in self._judge(of_steps=False)]
        self._act([Told(name, Alarm(*alarm)) for name, *alarm in _of_first("alarms", found)])

    def logged(self, step: int, values: Scores) -> None:
        """Take note of the metrics of a training step."""
        for student, own in by_student(values).items():
            self._steps[student].append((step, own))
        self._act(self._judge(of_steps=True))

    def asked_to_stop(self) -> str | None:
        """Why the run shall end; None: it goes on."""
        return self._why

    def _note(self, step: int, scores: Scores) -> None:
        for student, own in by_student(scores).items():
            if EVALUATED in own:
                self._evaluations[student].append((step, own))
        if not self._evaluated or self._evaluated[-1] < step:
            self._evaluated.append(step)

    def _judge(self, *, of_steps: bool) -> list[Told]:
        found = []
        for student in {**self._evaluations, **self._steps}:
            history = History(self._evaluations[student], tuple(self._steps[student]))
            for alarm in alarms(history, of_steps=of_steps):
                told = Told(student, alarm)
                if alarm.name not in self._ignore and told.name not in self._told:
                    found.append(told)
        return found

    def _act(self, found: list[Told]) -> None:
        for one in found:
            self._tell(one)
        step = max((one.alarm.step for one in found), default=0)
        if not found or self._action == "warn" or step >= self._total_steps:
            return
        names = " and ".join(one.name for one in found)
        if self._action == "rollback" and all(one.alarm.curable for one in found):
            before = max((seen for seen in self._evaluated if seen < step), default=0)
            first = min(before + 1, step - 1)
            if step == self._first_step and self._resumed_from is not None:
                first = min(first, self._resumed_from)  # whose state this is: it was too late
            raise RollBack(first, step, f"led to an alarm, {names}")
        text = "; ".join(f"{one.name}: {one.alarm.text}" for one in found)
        self._why = f"stopped by guardian.action={self._action!r} at step {step}, {text}"

    def _tell(self, one: Told) -> None:
        self._told.add(one.name)
        name, alarm = one.name, one.alarm
        logging.warning("step %d, alarm %s: %s", alarm.step, name, alarm.text)
        self._writer.write(alarm.step, {f"alarms/{name}": alarm.value})
        if jax.process_index() or (alarm.step, name) in self._written:
            return
        self._written.add((alarm.step, name))
        entry = {"step": alarm.step, "name": name, "value": alarm.value, "text": alarm.text}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def by_student(values: Scores) -> dict[str, dict[str, float | None]]:
    """Scores by student; of the only one, and of all together, under an empty name."""
    found: dict[str, dict[str, float | None]] = {}
    for name, value in values.items():
        student, _, own = name.rpartition("/")
        found.setdefault(student, {})[own] = value
    return found


def check(action: str, ignore: Iterable[str]) -> None:
    """Raises ValueError: an action or a rule that does not exist."""
    if action not in ACTIONS:
        raise ValueError(f"guardian.action={action!r} is unknown; use one of {ACTIONS}")
    for name in ignore:
        if name not in RULES:
            raise ValueError(f"guardian.ignore names {name!r}; use some of {tuple(RULES)}")


def _lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; one that a crash has cut short does not count."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _of_first(name: str, value: Any) -> Any:
    """The first process's value, in all."""
    return json.loads(gather(name, json.dumps(value))[0])
