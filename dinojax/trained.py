"""The backbone that a run has trained, by its checkpoint: what evaluation and export begin with."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from dinojax import mesh as meshes
from dinojax.build import build_init
from dinojax.build_model import build_backbone
from dinojax.config import Config, from_dict
from dinojax.earlier import STUDENT, Earlier, find_earlier
from dinojax.models.presets import Backbone
from dinojax.precision import get_precision
from dinojax.runtime.checkpoint import abstract
from dinojax.runtime.contract import read_contract
from dinojax.runtime.errors import CheckpointError
from dinojax.runtime.fingerprints import hash_text
from dinojax.runtime.stored_state import read_digests
from dinojax.students import student_configs
from dinojax.typing import Params


@dataclass(frozen=True)
class Trained:
    """A checkpoint or snapshot of a run, and the configuration of the model in it."""

    earlier: Earlier
    config: Config
    """Of the run, or of the one student that is meant."""
    contract: dict[str, Any]
    """Of the workdir (`dinojax.runtime.contract.read_contract`)."""

    @property
    def workdir(self) -> str:
        return os.fspath(Path(self.earlier.path).parent.parent)

    @property
    def backbone(self) -> Backbone:
        return build_backbone(self.config, get_precision(self.config.train.precision))

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the EMA teacher's backbone, the same for a snapshot of that step."""
        start, found = f"{self.earlier.prefix}teacher/backbone/", read_digests(self.earlier.path)
        lines = [f"{name[len(start) :]} {found[name]}" for name in found if name.startswith(start)]
        if not lines:
            raise CheckpointError(f"checkpoint {self.earlier.path} has no digests of {start}")
        return hash_text("\n".join(sorted(lines)))

    def read(self, mesh: Mesh) -> Params:
        """The EMA teacher's backbone, split over the mesh as in training.

        Raises:
            ValueError: the checkpoint holds another model than its workdir says.
            dinojax.runtime.errors.CheckpointError: it is damaged.
        """
        shapes = jax.eval_shape(build_init(self.config)).teacher["backbone"]
        wanted = abstract(shapes, meshes.shardings(mesh, shapes))
        return self.earlier.read_teacher({"backbone": wanted})["backbone"]


def open_trained(checkpoint: str) -> Trained:
    """A run's backbone.

    Args:
        checkpoint: a workdir, for its newest checkpoint, or one of its checkpoints or snapshots; of
            a run with several students with the name of one behind it, as in ``runs/x#vits16``.

    Raises:
        FileNotFoundError: there is no such checkpoint, or no run that it belongs to.
        ValueError: no student of this name, or none named where there are several.
    """
    earlier = find_earlier(checkpoint, "checkpoint")
    contract = read_contract(Path(earlier.path).parent.parent)
    config = one_student(from_dict(contract["config"]), earlier.student, checkpoint)
    return Trained(earlier, config, contract)


def one_student(config: Config, student: str | None, where: str) -> Config:
    """The configuration of a run's student, or of the run that has only its own.

    Args:
        where: it is from, for the message.

    Raises:
        ValueError: no student of this name, or none named where there are several.
    """
    students = student_configs(config)
    if student is None and not students:
        return config
    if not students:
        raise ValueError(f"checkpoint={where!r} is of a run with one student, without name")
    if student not in students:
        path = where.partition(STUDENT)[0]
        working = ", ".join(f"{path}{STUDENT}{name}" for name in students)
        raise ValueError(f"checkpoint={where!r} is of a run with several students; use {working}")
    return students[student]
