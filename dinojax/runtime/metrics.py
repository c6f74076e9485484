"""Metrics of a run on disk: one JSON object per line, and TensorBoard events.

``metrics.jsonl`` holds ``{"step": 120, "total_loss": 8.1, ...}`` per line; a step may have several
lines (training, evaluation). JSON has no NaN: values that are not finite are ``null`` there and
left out of TensorBoard.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dinojax.runtime.atomic import replace_text
from dinojax.typing import Array, UInt8

FILE = "metrics.jsonl"


class MetricWriter:
    """Appends metrics of a run to ``metrics.jsonl`` and ``tensorboard/`` in its workdir.

    The first process writes, the others do nothing. A context manager; both files are flushed when
    it ends, the JSON lines also after each write.

    Args:
        workdir: created if absent.
        resumed_from: step of the checkpoint that the run continues from; what an earlier attempt
            wrote about later steps is dropped, because those steps will be written again. None: the
            run starts from nothing, and so do the metrics.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, resumed_from: int | None = None):
        self._jsonl = self._events = None
        if jax.process_index() != 0:
            return
        # Imports torch where it is installed: two seconds that only the writer pays.
        from tensorboardX import SummaryWriter

        root = Path(workdir)
        root.mkdir(parents=True, exist_ok=True)
        kept = -1 if resumed_from is None else resumed_from
        truncate_after(root / FILE, kept)
        self._jsonl = (root / FILE).open("a", encoding="utf-8")
        # TensorBoard hides events of earlier files from purge_step on. File names hold seconds: the
        # suffix keeps a quick restart from overwriting its predecessor's file.
        self._events = SummaryWriter(
            str(root / "tensorboard"),
            purge_step=kept + 1,
            filename_suffix=f".{os.getpid()}.{kept + 1}",
        )

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line, and one TensorBoard scalar per value."""
        if self._jsonl is None or self._events is None:
            return
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        self._jsonl.write(json.dumps({"step": step, **finite}) + "\n")
        self._jsonl.flush()
        for name, value in finite.items():
            if value is not None:
                self._events.add_scalar(name, value, step)

    def write_picture(self, step: int, name: str, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
        """To TensorBoard alone."""
        if self._events is not None:
            self._events.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close both; more calls do nothing."""
        if self._jsonl is not None and self._events is not None:
            self._jsonl.close()
            self._events.close()
        self._jsonl = self._events = None


def truncate_after(path: Path, step: int) -> None:
    """Drop the lines of later steps, and a last line cut short by a crash. No file is no lines."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        replace_text(path, "".join(line for line in lines if _step_of(line) <= step))


def last_step(workdir: str | os.PathLike[str]) -> int:
    """How many steps a run has logged; 0 without metrics."""
    path = Path(workdir) / FILE
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return int(max((step for step in map(_step_of, lines) if step < math.inf), default=0))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


class Fetched(NamedTuple):
    """Metrics that have reached the host."""

    step: int
    values: dict[str, float]
    finished: float
    """When: by the clock, as soon as the step that made them was finished."""


class Deferred:
    """Fetches device metrics in a thread and hands them over one log period late.

    So logging never waits for a running step, yet knows when it was finished; and the host cannot
    run ahead of the device by more than two periods.

    Args:
        clock: seconds from any origin; that of `dinojax.runtime.throughput.Throughput`.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._held: Future[Fetched] | None = None

    def push(self, step: int, metrics: Mapping[str, Array]) -> list[Fetched]:
        """Hold these; return what was held, if anything."""
        for value in metrics.values():
            value.copy_to_host_async()
        ready = self.flush()
        self._held = self._thread.submit(self._fetch, step, dict(metrics))
        return ready

    def flush(self) -> list[Fetched]:
        """What is held, now: at the end of a run, or before its metrics are needed."""
        held, self._held = self._held, None
        return [] if held is None else [held.result()]

    def _fetch(self, step: int, metrics: dict[str, Any]) -> Fetched:
        values = jax.device_get(metrics)
        finished = self._clock()
        return Fetched(step, {name: float(value) for name, value in values.items()}, finished)
