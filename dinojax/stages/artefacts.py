"""Hashes of what stages take and leave: files, checkpoints and records."""

import functools
from pathlib import Path

from dinojax.config import Config, TrainConfig
from dinojax.config.data import DataConfig
from dinojax.data.check import fingerprint
from dinojax.eval_records import open_records
from dinojax.runtime import stored_state
from dinojax.runtime.earlier import find_checkpoint
from dinojax.runtime.fingerprints import hash_file
from dinojax.training.data import open_data


def hash_artefact(path: Path) -> str:
    """Of a file, a checkpoint, or the newest checkpoint of a workdir.

    Raises:
        FileNotFoundError: there is nothing.
        dinojax.runtime.errors.CheckpointError: it is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    if path.is_file():
        return hash_file(path)
    return stored_state.fingerprint(find_checkpoint(str(path), "checkpoint"))


@functools.cache
def fingerprint_of_training(data: DataConfig, batch_size: int) -> str:
    """Of the records that a run trains on, as it finds it itself; listing millions takes long."""
    opened = open_data(_only(data, batch_size))
    timeout = data.read_timeout_s
    return fingerprint(opened.source, opened.order.mixture, read_timeout_s=timeout).digest


@functools.cache
def fingerprint_of_evaluation(data: DataConfig, batch_size: int) -> str:
    """Of the records that features are evaluated on."""
    parts = open_records(_only(data, batch_size))
    return " ".join(fingerprint(part, read_timeout_s=data.read_timeout_s).digest for part in parts)


def _only(data: DataConfig, batch_size: int) -> Config:
    """All that records depend on."""
    return Config(data=data, train=TrainConfig(batch_size=batch_size))
