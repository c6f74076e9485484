"""The kinds of stages: what each is given, depends on, runs as a command and leaves behind."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from dinojax.build_gram import AUTO, EMA
from dinojax.build_model import build_backbone
from dinojax.config import Config, to_dict
from dinojax.evaluate import FILE as SCORES_FILE
from dinojax.evaluate import evaluated
from dinojax.export_torch import check_format
from dinojax.initial_state import CHECKPOINT_KEYS, RANDOM
from dinojax.precision import get_precision
from dinojax.runtime.atomic import replace_text
from dinojax.runtime.contract import binding, flatten
from dinojax.runtime.summary import FILE as SUMMARY_FILE
from dinojax.stages import recipe
from dinojax.stages.artefacts import (
    fingerprint_of_evaluation,
    fingerprint_of_training,
    hash_artefact,
)
from dinojax.stages.compatible import check_backbones
from dinojax.stages.references import PREFIX, parse_reference, references, strings
from dinojax.tasks import check_tasks
from dinojax.trained import STUDENT, one_student, open_trained
from dinojax.validation import validate

WORDS = (AUTO, EMA, RANDOM)
"""What keys that name checkpoints may hold instead."""
EXPORTED = "backbone.safetensors"
KEPT = ("checkpoint.snapshot_every_steps", "checkpoint.keep_every_steps")
"""Keys that change no step of a run, but what it leaves for others."""


class Outcome(NamedTuple):
    """What a stage leaves: hashes by path in its folder, and scores by name."""

    artefacts: dict[str, str]
    scores: dict[str, float]


@runtime_checkable
class Given(Protocol):
    """What a stage is given. Strings in it may name other stages (`references`)."""

    @property
    def checkpoint_keys(self) -> tuple[str, ...]:
        """Dotted keys that may also name a file or a run outside of the pipeline."""
        ...

    def check(self, others: Mapping[str, "Given"]) -> None:
        """Raises ValueError or FileNotFoundError: it cannot run, whatever its parents leave."""
        ...

    def settings(self) -> dict[str, Any]:
        """All that the outcome depends on by dotted key, apart from the records."""
        ...

    def records(self, others: Mapping[str, "Given"]) -> str | None:
        """Fingerprint of the data; None: it reads none."""
        ...

    def command(self, folder: Path, launcher: tuple[str, ...]) -> list[str]:
        """What to run, once no references are left in it and the folder has its record."""
        ...

    def finish(self, folder: Path) -> Outcome:
        """Read what the command has left, and see to the summary.

        Raises:
            ValueError or FileNotFoundError: it is not all there.
        """
        ...


@dataclass(frozen=True)
class TrainStage:
    """A run of `dinojax.train`: pretraining, Gram anchoring, high resolution, distillation."""

    config: Config = field(default_factory=Config)

    checkpoint_keys = tuple(f"config.{key}" for key in CHECKPOINT_KEYS)

    def check(self, others: Mapping[str, Given]) -> None:
        validate(self.config, batch_shards=1)  # the run itself knows its devices
        for key, text in strings(to_dict(self.config)):
            if key not in CHECKPOINT_KEYS or text in WORDS:
                continue
            if text.startswith(PREFIX):
                check_backbones(self.config, key, _model(text, others), text)
            elif not Path(text.partition(STUDENT)[0]).exists():
                raise FileNotFoundError(
                    f"{key}={text!r} does not exist; a stage is named with {PREFIX} before it"
                )

    def settings(self) -> dict[str, Any]:
        config = to_dict(self.config)
        kept = flatten(config)
        return {**binding(config), **{key: kept[key] for key in KEPT}}

    def records(self, others: Mapping[str, Given]) -> str | None:
        return fingerprint_of_training(self.config.data, self.config.train.batch_size)

    def command(self, folder: Path, launcher: tuple[str, ...]) -> list[str]:
        # The stage's key has proven that these are the same weights, wherever they lie now.
        options = [f"--allow_change={key}" for key in CHECKPOINT_KEYS]
        file = f"{recipe.__file__}:{folder}"
        if launcher:
            return [*launcher, file, str(folder), *options]
        return [*_python("train"), f"--config={file}", f"--workdir={folder}", *options]

    def finish(self, folder: Path) -> Outcome:
        paths = [f"checkpoints/{self.config.train.steps}"]
        for series, every in (
            ("snapshots", self.config.checkpoint.snapshot_every_steps),
            ("checkpoints", self.config.checkpoint.keep_every_steps),
        ):
            steps = sorted(int(p.name) for p in (folder / series).glob("*") if p.name.isdigit())
            paths += [f"{series}/{step}" for step in steps if every and step % every == 0]
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        summary.pop("images_per_s", None)  # of this machine, not of the model
        scores = {name: value for name, value in summary.items() if value is not None}
        return Outcome({path: hash_artefact(folder / path) for path in paths}, scores)


@dataclass(frozen=True)
class EvaluateStage:
    """`dinojax.evaluate` of a stage or of any other run; keys are its flags."""

    checkpoint: str | None = None
    tasks: tuple[str, ...] = ("knn",)
    data: str | None = None
    image_px: int | None = None

    checkpoint_keys = ("checkpoint",)

    def check(self, others: Mapping[str, Given]) -> None:
        check_tasks(self.tasks)
        evaluated(self._config(others), self.data, self.image_px)

    def settings(self) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint,
            "tasks": list(self.tasks),
            "image_px": self.image_px,
        }

    def records(self, others: Mapping[str, Given]) -> str | None:
        config = evaluated(self._config(others), self.data, self.image_px)
        return fingerprint_of_evaluation(config.data, config.train.batch_size)

    def command(self, folder: Path, launcher: tuple[str, ...]) -> list[str]:
        options = {
            "checkpoint": self.checkpoint,
            "tasks": ",".join(self.tasks),
            "data": self.data,
            "image_px": self.image_px,
            "workdir": folder,
        }
        return [*_python("evaluate"), *_flags(options)]

    def finish(self, folder: Path) -> Outcome:
        found = json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))
        scores = {f"{one['task']}_{one['metric']}": one["value"] for one in found["scores"]}
        _write_summary(folder, scores)
        return Outcome({SCORES_FILE: hash_artefact(folder / SCORES_FILE)}, scores)

    def _config(self, others: Mapping[str, Given]) -> Config:
        return _model(self.checkpoint, others)


@dataclass(frozen=True)
class ExportStage:
    """`dinojax.export_torch` of a stage or of any other run; keys are its flags."""

    checkpoint: str | None = None
    format: str = "dinov3"

    checkpoint_keys = ("checkpoint",)

    def check(self, others: Mapping[str, Given]) -> None:
        config = _model(self.checkpoint, others)
        check_format(self.format, build_backbone(config, get_precision(config.train.precision)))

    def settings(self) -> dict[str, Any]:
        return {"checkpoint": self.checkpoint, "format": self.format}

    def records(self, others: Mapping[str, Given]) -> str | None:
        return None

    def command(self, folder: Path, launcher: tuple[str, ...]) -> list[str]:
        options = {**self.settings(), "out": folder / EXPORTED}
        return [*_python("export_torch"), *_flags(options)]

    def finish(self, folder: Path) -> Outcome:
        _write_summary(folder, {"bytes": (folder / EXPORTED).stat().st_size})
        return Outcome({EXPORTED: hash_artefact(folder / EXPORTED)}, {})


KINDS: dict[str, type[Given]] = {
    "train": TrainStage,
    "evaluate": EvaluateStage,
    "export": ExportStage,
}


def _write_summary(folder: Path, values: dict[str, float]) -> None:
    replace_text(folder / SUMMARY_FILE, json.dumps(values, indent=2) + "\n")


def _model(checkpoint: str | None, others: Mapping[str, Given]) -> Config:
    """The configuration of the run that a checkpoint belongs to."""
    if checkpoint is None:
        raise ValueError("checkpoint is missing; name a stage, as in checkpoint='stage:pretrain'")
    if not checkpoint.startswith(PREFIX):
        return open_trained(checkpoint).config
    name, _, student = parse_reference(checkpoint)
    run = others[name]
    if not isinstance(run, TrainStage):
        raise ValueError(f"checkpoint={checkpoint!r} trains nothing; name a stage that does")
    return one_student(run.config, student.removeprefix(STUDENT) or None, checkpoint)


def reads_stage(given: Given) -> bool:
    """Whether its records come from another stage, and so cannot be looked at before."""
    values = to_dict(given)
    return any(key.startswith(("config.data.", "data")) for key, _ in references(values))


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", f"dinojax.{module}"]


def _flags(options: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items() if value is not None]
