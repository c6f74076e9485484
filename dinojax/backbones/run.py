"""The backbone that a run has trained: the EMA teacher's, of a checkpoint or a snapshot."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from dinojax.backbones.opened import ImageFormat, Opened, fingerprint_of
from dinojax.models.presets import configured
from dinojax.precision import Precision, get_precision
from dinojax.runtime.contract import read_contract
from dinojax.runtime.earlier import Earlier, find_earlier
from dinojax.runtime.errors import CheckpointError
from dinojax.runtime.stored_state import read_digests
from dinojax.typing import Params


@dataclass(frozen=True)
class Trained(Opened):
    """A checkpoint or snapshot, and the contract of the workdir that it is in."""

    earlier: Earlier
    contract: Mapping[str, Any]
    """`dinojax.runtime.contract.read_contract`."""

    @property
    def workdir(self) -> str:
        return os.fspath(Path(self.earlier.path).parent.parent)

    @property
    def step(self) -> int:
        return self.earlier.step

    @property
    def student(self) -> str | None:
        """Which one, of a run that had several."""
        return self.earlier.student

    @property
    def arch(self) -> str:
        return student_section(self.contract["config"], self.student)["arch"]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the EMA teacher's backbone, the same for a snapshot of that step."""
        start, found = f"{self.earlier.prefix}teacher/backbone/", read_digests(self.earlier.path)
        own = {name[len(start) :]: found[name] for name in found if name.startswith(start)}
        if not own:
            raise CheckpointError(f"checkpoint {self.earlier.path} has no digests of {start}")
        return fingerprint_of(own)

    def read(self, mesh: Mesh) -> Params:
        wanted = self.layout(mesh)
        return self.earlier.read_teacher({"backbone": wanted})["backbone"]


def open_trained(checkpoint: str, precision: Precision | None = None) -> Trained:
    """A run's backbone.

    Args:
        checkpoint: a workdir, for its newest checkpoint, or one of its checkpoints or snapshots; of
            a run with several students with the name of one behind it, as in ``runs/x#vits16``.
        precision: None: that of the run.

    Raises:
        FileNotFoundError: there is no such checkpoint, or no run that it belongs to.
        ValueError: no student of this name, or none named where there are several.
    """
    earlier = find_earlier(checkpoint, "checkpoint")
    contract = read_contract(Path(earlier.path).parent.parent)
    config = contract["config"]
    crops = config["crops"]
    images = ImageFormat(
        tuple(crops["rgb_mean"]), tuple(crops["rgb_std"]), config["knn"]["image_px"]
    )
    section = student_section(config, earlier.student)
    backbone = configured(section, precision or get_precision(config["train"]["precision"]))
    return Trained(checkpoint, backbone, earlier, contract, images=images)


def student_section(config: Mapping[str, Any], student: str | None) -> dict[str, Any]:
    """The section ``student`` of a stored configuration, as the student of this name has it."""
    section = dict(config["student"])
    for name, overrides in config["distillation"]["students"]:
        if name == student:
            keys = {key: value for key, value in overrides if key.startswith("student.")}
            section |= {key.removeprefix("student."): value for key, value in keys.items()}
    return section
