"""The ledger of unreadable records, and the budget that they may not exceed.

``quarantine.jsonl`` in the workdir holds one JSON object per failed read, ``{"step", "slot",
"position", "attempt", "id", "cause", "substitute"}``, written when the step's batch is consumed: a
batch that was only loaded ahead leaves nothing, and a resumed run drops the steps that it runs
again. So the ledger is a function of the run's steps, whoever loaded them and however often it was
killed. Of several processes, each writes a file of its own: ``quarantine.1.jsonl`` and so on.
Processes that hold the same slots, sharing them by tensor parallelism, write the same entries.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from dinojax.data.load import Problem
from dinojax.runtime.metrics import truncate_after

FLOOR = 16
"""Unreadable records that every run with a budget above 0 may meet, however short it is."""
SHOWN = 3


class BadBudgetError(RuntimeError):
    """More records are unreadable than the budget allows."""


def ledger_file(process_index: int) -> str:
    """Name of a process's ledger in the workdir."""
    return f"quarantine.{process_index}.jsonl" if process_index else "quarantine.jsonl"


def read_ledger(workdir: str | Path) -> list[dict[str, Any]]:
    """The entries of all processes by position and attempt; a line cut short is left out."""
    entries = {}
    for path in Path(workdir).glob("quarantine*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for entry in (json.loads(line) for line in lines if line.endswith("\n")):
            entries[entry["position"], entry["attempt"]] = entry
    return [entries[key] for key in sorted(entries)]


def allowed(budget: float, reads: int) -> float:
    """Unreadable records among `reads` that a run may meet: a share, at least `FLOOR`, or none."""
    return float(max(FLOOR, budget * reads)) if budget else 0.0


class Quarantine:
    """Writes one process's ledger and stops the run over budget.

    A process judges its own slots: it needs no word from the others, and the entries that it finds
    after a resume, on whatever number of processes they were written, are those of its slots.

    Args:
        workdir: created if absent.
        global_batch: images per step over all processes.
        first_step: the step that the run starts or resumes with; entries from there on are dropped.
        budget: share of the records read that may be unreadable, 0..1; 0 allows none.
        slots: of the global batch that this process loads; None: all of them.
        process_index: names the ledger.
        process_count: of them.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        global_batch: int,
        first_step: int,
        budget: float,
        slots: Collection[int] | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        root = Path(workdir)
        root.mkdir(parents=True, exist_ok=True)
        self._path = root / ledger_file(process_index)
        self._global_batch, self._budget = global_batch, budget
        own = frozenset(range(global_batch) if slots is None else slots)
        self._host_batch = len(own)
        truncate_after(self._path, first_step - 1)
        if process_index == 0:  # also for the processes that an earlier, larger run had
            for path in root.glob("quarantine.*.jsonl"):
                if int(path.name.split(".")[1]) >= process_count:
                    truncate_after(path, first_step - 1)
        before = [
            entry
            for entry in read_ledger(root)
            if entry["attempt"] == 0 and entry["step"] < first_step and entry["slot"] in own
        ]
        self._count = len(before)
        self._first = [_name(entry["id"], entry["cause"]) for entry in before[:SHOWN]]

    def watch(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches, each entered into the ledger before it is handed on.

        Raises:
            BadBudgetError: before the step that would exceed the budget.
        """
        for batch in batches:
            self._enter(batch["step"], batch["problems"])
            yield batch

    def _enter(self, step: int, problems: Sequence[Problem]) -> None:
        if problems:
            self._write(step, problems)
        lost = [p for p in problems if p.substitute is None]
        if lost:
            raise BadBudgetError(
                f"step {step}: {_name(lost[0].id, lost[0].cause)}, and none of its "
                f"{lost[-1].attempt} substitutes can be read either; check that the data is still "
                f"where it was ({self._path} names the causes) and run the same command again"
            )
        reads = (step + 1) * self._host_batch
        if self._count > allowed(self._budget, reads):
            more = "; ..." if self._count > len(self._first) else ""
            raise BadBudgetError(
                f"{self._count} of {reads} records read until step {step} are unreadable "
                f"({self._count / reads:.2%}), more than data.bad_budget={self._budget:g} allows: "
                f"{'; '.join(self._first)}{more}; all are named in {self._path}; repair the "
                "storage or raise data.bad_budget and run the same command again, or clean the "
                "data for a new workdir"
            )

    def _write(self, step: int, problems: Sequence[Problem]) -> None:
        entries = [
            {"step": step, "slot": p.position % self._global_batch, **p._asdict()} for p in problems
        ]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in entries))
        first = [_name(p.id, p.cause) for p in problems if p.attempt == 0]
        self._first = (self._first + first)[:SHOWN]
        count = self._count + len(first)
        if count.bit_length() > self._count.bit_length():  # at 1, 2, 4, 8, ...
            logging.warning(
                "step %d: %s; replaced, as %d so far: %s", step, first[0], count, self._path
            )
        self._count = count


def _name(record_id: str, cause: str) -> str:
    """Id and cause; most causes name their record already."""
    return cause if record_id in cause else f"record {record_id!r}: {cause}"
