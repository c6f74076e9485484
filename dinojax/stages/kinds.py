"""The kinds of stages, by name; all but ``train`` are given flags of the command that they are."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dinojax.build.model import build_backbone
from dinojax.config import Config
from dinojax.eval_records import check_image_px, evaluated
from dinojax.evaluate import FILE as SCORES_FILE
from dinojax.evaluation.snapshot_scores import FILE as TABLE_FILE
from dinojax.evaluation.snapshot_scores import read_table
from dinojax.export.formats import check_format, check_name
from dinojax.precision import get_precision
from dinojax.runtime.atomic import replace_bytes
from dinojax.snapshots import HELD_OUT
from dinojax.stages.artefacts import fingerprint_of_evaluation, hash_artefact
from dinojax.stages.given import Given, Outcome, flags, python, write_summary
from dinojax.stages.train_stage import TrainStage, model_of
from dinojax.tasks.table import check_tasks

EXPORTED = "backbone.safetensors"


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
        config = evaluated(self._config(others), self.data, self.image_px)
        backbone = build_backbone(config, get_precision(config.train.precision))
        check_image_px(config.knn.image_px, backbone.stride)

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
        return [*python("evaluate"), *flags(options)]

    def finish(self, folder: Path) -> Outcome:
        found = json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))
        scores = {f"{one['task']}_{one['metric']}": one["value"] for one in found["scores"]}
        write_summary(folder, scores)
        return Outcome({SCORES_FILE: hash_artefact(folder / SCORES_FILE)}, scores)

    def _config(self, others: Mapping[str, Given]) -> Config:
        return model_of(self.checkpoint, others)


@dataclass(frozen=True)
class SnapshotsStage:
    """`dinojax.show snapshots` of a stage: ranks its snapshots, for gram.teacher=auto to read."""

    workdir: str | None = None
    source: str | None = None
    image_px: int | None = None

    checkpoint_keys = ("workdir",)

    def check(self, others: Mapping[str, Given]) -> None:
        if model_of(self.workdir, others).checkpoint.snapshot_every_steps is None:
            raise ValueError(
                f"workdir={self.workdir!r} keeps no snapshots; set its "
                "checkpoint.snapshot_every_steps"
            )

    def settings(self) -> dict[str, Any]:
        return {"workdir": self.workdir, "image_px": self.image_px}

    def records(self, others: Mapping[str, Given]) -> str | None:
        config = evaluated(model_of(self.workdir, others), self.source, self.image_px, HELD_OUT)
        return fingerprint_of_evaluation(config.data, config.train.batch_size)

    def command(self, folder: Path, launcher: tuple[str, ...]) -> list[str]:
        return [*python("show"), "snapshots", *flags(asdict(self))]

    def finish(self, folder: Path) -> Outcome:
        """The ranking is copied: what is scored later does not change what was chosen by it."""
        assert self.workdir is not None
        replace_bytes(folder / TABLE_FILE, (Path(self.workdir) / TABLE_FILE).read_bytes())
        table = read_table(folder)
        assert table is not None
        best = table.ranked()[0]
        scores = {"recommended": best.step, **best.scores}
        write_summary(folder, scores)
        return Outcome({TABLE_FILE: hash_artefact(folder / TABLE_FILE)}, scores)


@dataclass(frozen=True)
class ExportStage:
    """`dinojax.export_torch` of a stage or of any other run; keys are its flags."""

    checkpoint: str | None = None
    format: str = "dinov3"

    checkpoint_keys = ("checkpoint",)

    def check(self, others: Mapping[str, Given]) -> None:
        config = model_of(self.checkpoint, others)
        check_format(self.format, build_backbone(config, get_precision(config.train.precision)))
        check_name(self.format, Path(EXPORTED))

    def settings(self) -> dict[str, Any]:
        return {"checkpoint": self.checkpoint, "format": self.format}

    def records(self, others: Mapping[str, Given]) -> str | None:
        return None

    def command(self, folder: Path, launcher: tuple[str, ...]) -> list[str]:
        options = {**self.settings(), "out": folder / EXPORTED}
        return [*python("export_torch"), *flags(options)]

    def finish(self, folder: Path) -> Outcome:
        write_summary(folder, {"bytes": (folder / EXPORTED).stat().st_size})
        return Outcome({EXPORTED: hash_artefact(folder / EXPORTED)}, {})


KINDS: dict[str, type[Given]] = {
    "train": TrainStage,
    "snapshots": SnapshotsStage,
    "evaluate": EvaluateStage,
    "export": ExportStage,
}
