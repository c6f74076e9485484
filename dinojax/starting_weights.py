"""Weights that a run starts from: a checkpoint, a snapshot of a backbone, or a released file.

A released backbone is a ``.safetensors`` file under the names of the official DINOv2 or DINOv3
repositories (`dinojax.export.names`). It has no heads, and neither has a snapshot.
"""

import hashlib
from pathlib import Path

from dinojax.backbones.released import describe, place, presets_of
from dinojax.config import Config
from dinojax.export.names import from_torch
from dinojax.export.tensor_file import SUFFIX, TensorFile
from dinojax.runtime.earlier import Earlier
from dinojax.runtime.errors import CheckpointError
from dinojax.runtime.stored_state import fingerprint, read_digests
from dinojax.typing import Params

KEY = "init.from"


def is_released(given: str) -> bool:
    """Whether a key names a file of weights, not a run or one of its checkpoints."""
    return given.endswith(SUFFIX)


def has_heads(earlier: Earlier) -> bool:
    """Whether a checkpoint holds more of its teacher than the backbone.

    Raises:
        dinojax.runtime.errors.CheckpointError: damaged, or not there.
    """
    heads = f"{earlier.prefix}teacher/dino_head/"
    return any(name.startswith(heads) for name in read_digests(earlier.path))


def read_released(path: str, config: Config, wanted: Params) -> Params:
    """The backbone of a released file, on the shardings and in the dtypes of `wanted`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or of another model; names the entries, and presets that would fit.
    """
    file, arch = TensorFile(path), config.student.arch
    try:
        found = from_torch(file, wanted)
    except ValueError as error:
        fitting = presets_of(file.shapes, config.student.in_chans)
        fix = (
            f"its entries are those of student.arch={' or '.join(map(repr, fitting))}"
            if fitting
            else f"it has {describe(file.shapes)}, as no preset; set student.* to its model"
        )
        raise ValueError(
            f"init.from={path!r} does not hold this run's backbone (student.arch={arch!r} and its "
            f"overrides): {error}; {fix}"
        ) from error

    return place(found, wanted)


def start_digest(config: Config) -> dict[str, str | None]:
    """16 hex digits of what init.from names, by this key, for the run's contract.

    If that is one thing: a file, or one checkpoint. The newest checkpoint of a workdir may be
    another one tomorrow. None: not there any more, which a run that has begun does not mind.
    """
    given = config.init.from_
    try:
        if given is None:
            return {}
        if is_released(given):
            with open(given, "rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))
            return {KEY: digest.hexdigest()}
        return {KEY: fingerprint(given)} if Path(given).name.isdigit() else {}
    except (FileNotFoundError, CheckpointError):
        return {KEY: None}
