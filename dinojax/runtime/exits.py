"""How a run ends: exit codes that tell a script what happened.

0 is a finished run and 1 Python's own: an error that nobody foresaw.
"""

import os
import signal
import threading
from typing import NoReturn

from dinojax.data.threads import StorageError
from dinojax.runtime.errors import (
    REFUSALS,
    AlarmedError,
    CheckpointError,
    DivergedError,
    PreemptedError,
)
from dinojax.runtime.quarantine import BadBudgetError

EXIT_CODES: dict[type[Exception], int] = {
    # Configuration, data or workdir refused; the same command would be refused again.
    **dict.fromkeys(REFUSALS, 2),
    # More unreadable records than `data.bad_budget` allows.
    BadBudgetError: 3,
    # The storage failed; once it is back, the same command resumes the run.
    StorageError: 4,
    # A checkpoint cannot be written, or there are some and none can be read.
    CheckpointError: 5,
    # SIGTERM or the cluster's notice; the state is saved, the same command resumes the run.
    PreemptedError: 6,
    # (7 is `HUNG`, 9 `PEER_LOST`.)
    # Too many steps in a row without a finite loss, and no checkpoint to go back to.
    DivergedError: 8,
    # An alarm, by `guardian.action`; saved, and the same command goes on all the same.
    AlarmedError: 10,
}
STOPS = tuple(EXIT_CODES)
HUNG = 7
"""What `dinojax.runtime.watchdog` ends a process with, in which nothing can be raised any more."""
PEER_LOST = 9
"""What `dinojax.runtime.cluster` ends a process with whose run has lost another without a word."""
RESUMABLE = frozenset(
    {
        *(EXIT_CODES[StorageError], EXIT_CODES[PreemptedError], HUNG, PEER_LOST),
        # Killed, as a shell counts it: by a host that goes away, by the kernel, or because another
        # process of the run has died, which JAX answers with SIGABRT.
        *(128 + number for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGABRT)),
    }
)
"""Codes after which the same command resumes the run. The scripts in ``launch/`` start it again
after these and after no others; they hold copies, which a test compares."""


GRACE_S = 2.0
"""What the interpreter gets to end by itself: it would wait for a thread that reads a file, however
long that takes."""


def exit_code(error: BaseException) -> int:
    """What the process ends with for this error."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


def leave(error: Exception) -> NoReturn:
    """End the process with the exit code of `error`, which is one of `STOPS`, within seconds."""
    code = exit_code(error)
    timer = threading.Timer(GRACE_S, os._exit, [code])
    timer.daemon = True
    timer.start()
    raise SystemExit(code)
