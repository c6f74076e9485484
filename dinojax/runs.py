"""Runs of the past: a workdir, the records that it was trained on, and what its ledger says."""

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from dinojax.config import Config, from_dict
from dinojax.data.check import fingerprint
from dinojax.data.load import Problem, readable
from dinojax.data.pipeline import StepBatches, TrainBatch, default_threads
from dinojax.runtime.contract import read_contract
from dinojax.runtime.metrics import last_step
from dinojax.runtime.quarantine import read_ledger
from dinojax.runtime.rollback import Window, read_windows
from dinojax.training.data import TrainingData, open_data


@dataclass(frozen=True)
class Run:
    """A workdir, its configuration, the records that it is trained on, and what was noted."""

    workdir: Path
    config: Config
    data: TrainingData
    entries: Sequence[Mapping[str, Any]] = ()
    """Of the ledger of failed reads."""
    steps_run: int = 0
    """How many steps the run has logged so far."""

    @functools.cached_property
    def batches(self) -> StepBatches:
        """Of all hosts together."""
        return StepBatches(
            self.data.source,
            self.data.order,
            canvas_px=self.config.data.canvas_px,
            num_threads=default_threads(),
            read_timeout_s=self.config.data.read_timeout_s,
            channels=self.config.student.in_chans,
        )

    @functools.cached_property
    def ledger(self) -> dict[int, list[Problem]]:
        """The failed reads at each position that showed a substitute, by attempt.

        Without those at which the run stopped, because nothing could be read there.
        """
        found = defaultdict(list)
        for entry in self.entries:
            if entry["substitute"] is not None:
                problem = Problem(*(entry[name] for name in Problem._fields))
                found[problem.position].append(problem)
        return dict(found)

    @functools.cached_property
    def steps_read(self) -> int:
        """How many steps' records are settled: also those run since the last line of the log."""
        last = max(self.ledger, default=-1)
        return max(self.steps_run, last // self.config.train.batch_size + 1)

    def left_out(self, step: int) -> bool:
        """Whether the run has gone back to a checkpoint and around this step."""
        return any(window.first <= step < window.end for window in self._windows)

    @functools.cached_property
    def _windows(self) -> list[Window]:
        return read_windows(self.workdir)

    def batch(self, step: int, slots: Sequence[int]) -> tuple[TrainBatch, Int64[np.ndarray, " n"]]:
        """What a step showed in these slots, or will show; and the records that it meant to.

        Where a record is gone since then, ``index`` is -1 and ``problems`` say why.

        Raises:
            ValueError: the ledger is not the run's.
        """
        records = self.data.order.indices(step, slots)
        if step >= self.steps_read:
            return self.batches.read(step, slots), records
        positions = [step * self.config.train.batch_size + slot for slot in slots]
        records = shown_then(self, positions, records)
        return self.batches.read(step, slots, records), records

    def find(self, record_id: str) -> list[int]:
        """Where a record is among the training records; a list of ids may name it repeatedly."""
        source = self.data.source
        return [i for i in range(len(source)) if source.record_id(i) == record_id]


def open_run(workdir: str | Path) -> Run:
    """A run that has been started.

    Files that were damaged or repaired since then are no obstacle: the ledger knows what the steps
    made of them, and `Run.batch` of those that it cannot read.

    Raises:
        FileNotFoundError: the workdir has no run, or its data is gone.
        ValueError: its files are damaged, or the data is no longer the same.
    """
    return open_contract(read_contract(workdir), workdir, read_ledger(workdir), last_step(workdir))


def open_contract(
    contract: dict[str, Any],
    workdir: str | Path,
    entries: Sequence[Mapping[str, Any]],
    steps_run: int,
) -> Run:
    """The same from what was found in the workdir's files, then or now."""
    config = from_dict(contract["config"])
    run = Run(Path(workdir), config, open_data(config), entries, steps_run)
    now = fingerprint(
        run.data.source, run.data.order.mixture, read_timeout_s=config.data.read_timeout_s
    )
    then = contract["data_fingerprint"]
    if now.records != then["records"]:
        raise ValueError(
            f"data.source={config.data.source!r} holds other records than those that {workdir} is "
            "trained on; restore them"
        )
    for name, digest in now.images.items():
        if digest != then["images"][name] and not _was_or_is_unreadable(run, name):
            raise ValueError(
                f"record {name!r} of data.source={config.data.source!r} holds other bytes than "
                f"when {workdir} was started; restore it"
            )
    return run


def _was_or_is_unreadable(run: Run, record_id: str) -> bool:
    if any(problem.id == record_id for failed in run.ledger.values() for problem in failed):
        return True
    try:
        record = run.data.source[run.find(record_id)[0]]
        readable(record, run.config.data.canvas_px, run.config.student.in_chans)
    except (ValueError, OSError):
        return True
    return False


def shown_then(
    run: Run, positions: Sequence[int], drawn: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """The records that steps of the past showed where these were drawn: what the ledger says.

    Raises:
        ValueError: it names a substitute that the position does not have.
    """
    shown = drawn.copy()
    for place, position in enumerate(positions):
        if position not in run.ledger:
            continue
        name = run.ledger[position][0].substitute
        candidates = run.batches.substitutes(position, int(drawn[place]))
        index = next((i for i in candidates if run.data.source.record_id(i) == name), None)
        if index is None:
            raise ValueError(
                f"the ledger of {run.workdir} names {name!r} as the substitute at position="
                f"{position}, where it is none; restore the files that the run wrote"
            )
        shown[place] = index
    return shown
