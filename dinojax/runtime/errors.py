"""What ends a run before its last step, apart from its input: see `dinojax.runtime.exits`."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or none can be read."""


class PreemptedError(Exception):
    """The run was asked to leave, and its state is saved."""


class DivergedError(RuntimeError):
    """The state is spoilt, and there is no checkpoint to go back to."""
