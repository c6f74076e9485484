"""What binds a workdir to one run: configuration, data, and the weights that it is given."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dinojax.config import Config, to_dict
from dinojax.data.check import Fingerprint, fingerprint, verify
from dinojax.runtime.agreement import agree, check_shared
from dinojax.runtime.contract import FILE, write_or_check
from dinojax.training.data import TrainingData
from dinojax.training.frozen_teacher import teacher_digest
from dinojax.training.starting_weights import start_digest


class Identity(NamedTuple):
    """What a run is of, beside its configuration."""

    data: Fingerprint
    weights: dict[str, str | None]
    """Digests of what its keys name."""


def identify(config: Config, data: TrainingData) -> Identity:
    """Look at the data and the weights; nothing is written.

    Raises:
        ValueError: unreadable data, or processes that differ.
        dinojax.runtime.quarantine.BadBudgetError: too many unreadable records.
        dinojax.data.threads.StorageError: a read takes too long, or the storage fails.
        FileNotFoundError: a teacher or the weights to begin with are not there.
    """
    given = config.data
    for part in (data.source, data.queries):
        verify(
            part,
            given.canvas_px,
            given.verify_images,
            budget=given.bad_budget,
            channels=config.student.in_chans,
            read_timeout_s=given.read_timeout_s,
        )
    found = fingerprint(data.source, data.order.mixture, read_timeout_s=given.read_timeout_s)
    weights = {**teacher_digest(config), **start_digest(config)}
    agree("data", {"data fingerprint": found.digest, **weights})
    return Identity(found, weights)


def bind(
    workdir: str, config: Config, identity: Identity, allow_change: Sequence[str] = ()
) -> None:
    """Write the contract of a new workdir, or check that of an old one.

    Args:
        allow_change: keys that may have other values than at the last start.

    Raises:
        ValueError: a workdir of another run.
    """
    found, weights = identity
    write_or_check(workdir, to_dict(config), found._asdict(), allow_change, weights)
    check_shared(Path(workdir) / FILE)
