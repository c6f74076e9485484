"""The process of a stage: SIGTERM goes on to it, and the workdir is locked as long as it lives."""

import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from dinojax.runtime.errors import PreemptedError
from dinojax.runtime.exits import EXIT_CODES

LEFT = "asked to leave; the same command goes on from here"


class Children:
    """A context manager that runs one command at a time, until SIGTERM asks it to leave.

    A stage saves and leaves at SIGTERM by itself (`dinojax.runtime.preemption`).

    Args:
        lock: file descriptor that each process inherits.
    """

    def __init__(self, lock: int):
        self._lock = lock
        self._child: subprocess.Popen[bytes] | None = None
        self._asked = False
        self._before: Any = None

    def __enter__(self) -> "Children":
        self._before = signal.signal(signal.SIGTERM, self._pass_on)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if self._asked else self._before)

    def run(self, command: Sequence[str]) -> int:
        """The exit code of a command, as a shell counts it.

        Raises:
            PreemptedError: asked to leave, before or meanwhile; the command did not fail.
        """
        if self._asked:
            raise PreemptedError(LEFT)
        with subprocess.Popen(command, pass_fds=(self._lock,)) as child:
            self._child = child
            if self._asked:  # while it was being started
                child.terminate()
            code = child.wait()
        self._child = None
        code = code if code >= 0 else 128 - code
        if self._asked and code in (EXIT_CODES[PreemptedError], 128 + signal.SIGTERM):
            raise PreemptedError(LEFT)
        return code

    def _pass_on(self, *_: object) -> None:
        self._asked = True
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
