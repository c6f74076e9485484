"""Parts of a run's state beside the EMA teacher's backbone, as files of tensors."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dinojax import mesh as meshes
from dinojax import trees
from dinojax.backbones.opened import Opened
from dinojax.backbones.run import Trained
from dinojax.build.step import build_init
from dinojax.config.students import config_of
from dinojax.export.names import to_torch
from dinojax.runtime.checkpoint import abstract
from dinojax.typing import Params

TEACHER, STUDENT, HEADS, OPTIMIZER = "teacher", "student", "heads", "optimizer"
PARTS = (TEACHER, STUDENT, HEADS, OPTIMIZER)
"""The EMA teacher's backbone, the student's, the EMA teacher's heads, and Adam's moments."""
BACKBONES = (TEACHER, STUDENT)
State = dict[str, np.ndarray]


def read_student(trained: Trained, mesh: Mesh) -> Params:
    """The student's backbone. Raises: as `Opened.read`."""
    wanted = {"student": {"backbone": trained.layout(mesh)}}
    return trained.earlier.read(wanted)["student"]["backbone"]


def read_heads(trained: Trained, mesh: Mesh, *, official: bool) -> State:
    """The EMA teacher's heads under the official names, ``dino_head.mlp.0.weight``, or ours.

    Raises:
        ValueError: a snapshot, which has none.
    """
    teacher = _of_state(trained, mesh).teacher
    heads = {name: teacher[name] for name in teacher if name != "backbone"}
    found = jax.device_get(trained.earlier.read_teacher(heads))
    if not official:
        return _arrays(found)
    return {
        f"{head}.{name}": value
        for head, params in found.items()
        for name, value in to_torch(params).items()
    }


def read_optimizer(trained: Trained, mesh: Mesh) -> tuple[State, int]:
    """Adam's moments by our paths, ``mu/backbone/...`` and ``nu/...``, and how many steps they are.

    Raises:
        ValueError: a snapshot, which has none.
    """
    wanted = {"moments": _of_state(trained, mesh).moments}
    moments = jax.device_get(trained.earlier.read(wanted)["moments"])
    return _arrays({"mu": moments.mu, "nu": moments.nu}), int(moments.count)


def of_run(opened: Opened, part: str) -> Trained:
    """The run that has this part.

    Raises:
        ValueError: it is no checkpoint of a run.
    """
    if not isinstance(opened, Trained) or opened.earlier.path.rsplit("/", 2)[-2] == "snapshots":
        raise ValueError(
            f"--part={part}: {opened.name} holds a backbone alone; name a run, or one of its "
            "checkpoints as runs/x/checkpoints/400"
        )
    return opened


def _of_state(trained: Trained, mesh: Mesh) -> Any:
    shapes = jax.eval_shape(build_init(config_of(trained)))
    return abstract(shapes, meshes.shardings(mesh, shapes))


def _arrays(tree: Any) -> State:
    return {name: np.ascontiguousarray(leaf) for name, leaf in trees.flatten(tree).items()}
