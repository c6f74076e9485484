"""Ending a run that no longer moves, with the stacks of all threads: a hang costs money silently.

Collectives wait for ever for a process that died, and storage may never answer.
"""

import contextlib
import sys
import threading
import traceback
from pathlib import Path

from dinojax.runtime import cluster
from dinojax.runtime.exits import HUNG

TICKS = 50
"""Per timeout. Time is counted in ticks of the watching thread: while the whole process is stopped
and the clock goes on, it ages by one."""
STARTUP = 10
"""How many times longer everything before the first step may take: restoring and compiling."""

REPORT_S = 5.0
"""What writing the report may take before the process ends without it."""


class Watchdog:
    """A context manager; call it whenever there is progress.

    When none came for `timeout_s`, the stacks of all threads go to stderr and to `report`, and the
    process ends at once with the exit code `HUNG`. So do the other processes of the run, which wait
    for this one: each shows its stacks on stderr. What is on disk stays good.

    Args:
        timeout_s: seconds; must exceed the longest evaluation and save. 0: never.
        report: text file, replaced.
    """

    def __init__(self, timeout_s: float, report: Path):
        self._timeout_s, self._report = timeout_s, report
        self._age, self._limit = 0, TICKS * STARTUP
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._timeout_s:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()

    def __call__(self) -> None:
        """There is progress."""
        self._age, self._limit = 0, TICKS

    def _watch(self) -> None:
        while not self._done.wait(self._timeout_s / TICKS):
            self._age += 1
            if self._age >= self._limit:
                self._end()

    def _end(self) -> None:
        seconds = self._timeout_s * self._limit / TICKS
        text = (
            f"no progress for {seconds:g} s (train.hang_timeout_s={self._timeout_s:g}); the stacks "
            f"of all threads are above and in {self._report}; the same command resumes the run"
        )
        # It may be the storage that hangs.
        writer = threading.Thread(target=self._write, args=[text], daemon=True)
        writer.start()
        writer.join(REPORT_S)
        cluster.end_all(HUNG, f"dinojax: {cluster.here()}{text}")

    def _write(self, text: str) -> None:
        # Not by faulthandler: it keeps the interpreter's lock while it writes.
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        stacks = [
            f"Thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}"
            for number, frame in sys._current_frames().items()
        ]
        with contextlib.suppress(OSError):
            self._report.parent.mkdir(parents=True, exist_ok=True)
            self._report.write_text("\n".join([text, *stacks]), encoding="utf-8")
