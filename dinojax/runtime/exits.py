"""How a run ends: exit codes that tell a script what happened.

0 is a finished run and 1 Python's own: an error that nobody foresaw.
"""

import os
import sys
from typing import NoReturn

from dinojax.data.threads import StorageError
from dinojax.runtime.quarantine import BadBudgetError

EXIT_CODES: dict[type[Exception], int] = {
    # Configuration, data or workdir refused; the same command would be refused again.
    ValueError: 2,
    FileNotFoundError: 2,
    # More unreadable records than `data.bad_budget` allows.
    BadBudgetError: 3,
    # The storage failed; once it is back, the same command resumes the run.
    StorageError: 4,
}
STOPS = tuple(EXIT_CODES)


def leave(error: Exception) -> NoReturn:
    """End the process with the exit code of `error`, which is one of `STOPS`."""
    code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
    if isinstance(error, StorageError):
        # The interpreter would wait for the loader's thread, and that for another slow file.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
