"""Weights that a run starts from: a checkpoint, a snapshot of a backbone, or a released file.

A file has any layout of `dinojax.export.weights`. It has no heads, and neither has a snapshot.
"""

import hashlib
from pathlib import Path

from dinojax.backbones.released import read_checked
from dinojax.backbones.sniff import describe, presets_of
from dinojax.build.model import build_backbone
from dinojax.config import Config
from dinojax.export.incoming import Incoming
from dinojax.export.weights import Weights, is_weights, open_weights
from dinojax.precision import get_precision
from dinojax.runtime.earlier import Earlier
from dinojax.runtime.errors import CheckpointError
from dinojax.runtime.stored_state import fingerprint, read_digests
from dinojax.typing import Params

KEY = "init.from"
CHUNK = 2**22


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
    weights = open_weights(path)
    backbone = build_backbone(config, get_precision(config.train.precision))
    try:
        incoming = Incoming(weights, wanted)
        incoming.check()
        return read_checked(incoming, backbone, wanted)
    except ValueError as error:
        raise ValueError(
            f"init.from={path!r} does not hold this run's backbone (student.arch="
            f"{config.student.arch!r} and its overrides): {error}; {_fix(weights, config)}"
        ) from error


def _fix(weights: Weights, config: Config) -> str:
    fitting = presets_of(weights, config.student.in_chans)
    if fitting == [config.student.arch]:
        return (
            f"once you know why, python -m dinojax.import_torch {weights.where} --out=DIR takes "
            "what you allow by name, and init.from=DIR/snapshots/0 that"
        )
    if fitting:
        return f"its entries are those of student.arch={' or '.join(map(repr, fitting))}"
    return f"it has {describe(weights.shapes)}, as no preset; set student.* to its model"


def start_digest(config: Config) -> dict[str, str | None]:
    """16 hex digits of what init.from names, by this key, for the run's contract.

    If that is one thing: a file, or one checkpoint. The newest checkpoint of a workdir may be
    another one tomorrow. None: not there any more, which a run that has begun does not mind.
    """
    given = config.init.from_
    try:
        if given is None:
            return {}
        if is_weights(given):
            return {KEY: _digest(open_weights(given).file.paths)}
        return {KEY: fingerprint(given)} if Path(given).name.isdigit() else {}
    except (FileNotFoundError, CheckpointError):
        return {KEY: None}


def _digest(paths: tuple[str, ...]) -> str:
    """Of the bytes of all files together."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
