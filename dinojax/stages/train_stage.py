"""The kind ``train``: any run of `dinojax.train`, whatever it takes over from others."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinojax.backbones.run import open_trained
from dinojax.build.gram import AUTO, EMA
from dinojax.config import Config, to_dict
from dinojax.config.students import config_of, one_student
from dinojax.config.validation import validate
from dinojax.runtime.contract import binding, flatten
from dinojax.runtime.earlier import STUDENT
from dinojax.runtime.summary import FILE as SUMMARY_FILE
from dinojax.stages import recipe
from dinojax.stages.artefacts import fingerprint_of_training, hash_artefact
from dinojax.stages.compatible import check_backbones
from dinojax.stages.given import Given, Outcome, python
from dinojax.stages.references import PREFIX, parse_reference, strings
from dinojax.training.frozen_teacher import RANDOM
from dinojax.training.initial_state import CHECKPOINT_KEYS
from dinojax.training.safety import SNAPSHOTS

WORDS = (AUTO, EMA, RANDOM)
"""What keys that name checkpoints may hold instead."""
KEPT = ("checkpoint.snapshot_every_steps", "checkpoint.keep_every_steps")
"""Keys that change no step of a run, but what it leaves for others."""


@dataclass(frozen=True)
class TrainStage:
    """A run of `dinojax.train`: pretraining, Gram anchoring, high resolution, distillation."""

    config: Config = field(default_factory=Config)
    after: tuple[str, ...] = ()
    """More stages that it waits for, as ``stage:NAME``: the ranking, with gram.teacher=auto."""

    checkpoint_keys = tuple(f"config.{key}" for key in CHECKPOINT_KEYS)

    def check(self, others: Mapping[str, Given]) -> None:
        validate(self.config, batch_shards=1)  # the run itself knows its devices
        if self.config.gram.teacher == AUTO and not self.after:
            raise ValueError(
                "gram.teacher='auto' needs the scores of the snapshots of init.from; declare "
                "snapshots('ranking', workdir='stage:...') and train(..., after=('ranking',))"
            )
        for key, text in strings(to_dict(self.config)):
            if key not in CHECKPOINT_KEYS or text in WORDS:
                continue
            if text.startswith(PREFIX):
                check_backbones(self.config, key, model_of(text, others), text)
            elif not Path(text.partition(STUDENT)[0]).exists():
                raise FileNotFoundError(
                    f"{key}={text!r} does not exist; a stage is named with {PREFIX} before it"
                )

    def settings(self) -> dict[str, Any]:
        config = to_dict(self.config)
        kept = flatten(config)
        after = {"after": list(self.after)} if self.after else {}
        return {**binding(config), **{key: kept[key] for key in KEPT}, **after}

    def records(self, others: Mapping[str, Given]) -> str | None:
        return fingerprint_of_training(self.config.data, self.config.train.batch_size)

    def command(self, folder: Path, launcher: tuple[str, ...]) -> list[str]:
        # The stage's key has proven that these are the same weights, wherever they lie now.
        options = [f"--allow_change={key}" for key in CHECKPOINT_KEYS]
        file = f"{recipe.__file__}:{folder}"
        if launcher:
            return [*launcher, file, str(folder), *options]
        return [*python("train"), f"--config={file}", f"--workdir={folder}", *options]

    def finish(self, folder: Path) -> Outcome:
        paths = [f"checkpoints/{self.config.train.steps}"]
        for series, every in (
            (SNAPSHOTS, self.config.checkpoint.snapshot_every_steps),
            ("checkpoints", self.config.checkpoint.keep_every_steps),
        ):
            steps = sorted(int(p.name) for p in (folder / series).glob("*") if p.name.isdigit())
            paths += [f"{series}/{step}" for step in steps if every and step % every == 0]
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        summary.pop("images_per_s", None)  # of this machine, not of the model
        scores = {name: value for name, value in summary.items() if value is not None}
        return Outcome({path: hash_artefact(folder / path) for path in paths}, scores)


def model_of(checkpoint: str | None, others: Mapping[str, Given]) -> Config:
    """The configuration of the run that a checkpoint belongs to."""
    if checkpoint is None:
        raise ValueError("checkpoint is missing; name a stage, as in checkpoint='stage:pretrain'")
    if not checkpoint.startswith(PREFIX):
        return config_of(open_trained(checkpoint))
    name, _, student = parse_reference(checkpoint)
    run = others[name]
    if not isinstance(run, TrainStage):
        raise ValueError(f"checkpoint={checkpoint!r} trains nothing; name a stage that does")
    return one_student(run.config, student.removeprefix(STUDENT) or None, checkpoint)
