"""What ends a run before its last step, apart from its input: see `dinojax.runtime.exits`."""

import contextlib
from collections.abc import Iterator

REFUSALS = (
    ValueError,
    # Of the system, for paths as they were given.
    *(FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError),
)
"""What a command refuses before it has begun; the same command would be refused again."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or none can be read."""


class PreemptedError(Exception):
    """The run was asked to leave, and its state is saved."""


class AlarmedError(Exception):
    """The guardian has seen something that the run shall not go on with; the state is saved."""


class DivergedError(RuntimeError):
    """The state is spoilt, and there is no checkpoint to go back to."""


@contextlib.contextmanager
def underway() -> Iterator[None]:
    """What is refused is refused before the first step; later, errors of these kinds are bugs."""
    try:
        yield
    except REFUSALS as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
