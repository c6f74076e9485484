"""Bytes per device of one training step, from the configuration alone.

The state is exact. What the step makes on the way is counted as the algorithm needs it at its
high points; `docs/plan.md` compares the sum with what the TPU compiler allocates.
"""

import math
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh

from dinojax import mesh as meshes
from dinojax.config import Config
from dinojax.config.students import student_configs
from dinojax.planning.head_memory import kept_for_students, output_bytes
from dinojax.planning.streams import MeshShape, images_per_device
from dinojax.planning.workspace import (
    crop_bytes,
    kept_for_backward,
    layer_workspace,
    similarity_bytes,
    teacher_workspace,
    view_workspace,
)
from dinojax.precision import Precision, get_precision
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.typing import PyTree

MESH_AXES = (*meshes.BATCH_AXES, "tensor")


class Memory(NamedTuple):
    """Bytes per device by category at the high point of the step."""

    student: int
    teacher: int
    moments: int
    batch: int
    """Canvases."""
    views: int
    """Crops, and at the high point of the views what they are made of."""
    activations: int
    """Kept for the backward pass."""
    layer: int
    """What one layer's pass works on, with its gathered weights."""
    logits: int
    """Prototype logits and targets, with both heads' gathered weights, and patch similarities. Or
    features that are matched, with the projections'."""
    gradients: int

    @property
    def total(self) -> int:
        return sum(self)


def predict_memory(
    config: Config, shape: MeshShape, state: TrainState | Students, *, fused: bool = False
) -> Memory:
    """The highest of `high_points`."""
    points = high_points(config, shape, state, fused=fused)
    return max(points.values(), key=lambda memory: memory.total)


def high_points(
    config: Config, shape: MeshShape, state: TrainState | Students, *, fused: bool = False
) -> dict[str, Memory]:
    """A step's four, of a configuration of one resolution (`dinojax.config.resolutions`).

    The views; the teachers' forward passes; the losses, with all that the student's forward pass
    keeps; the backward pass of the last layer, with all gradients laid out. `state`: shapes of
    `build_init`. Several students are there at once and take their steps in turn. `fused`: see
    `output_bytes`.
    """
    if isinstance(state, Students):
        return _of_students(config, shape, state, fused)
    mesh = AbstractMesh(shape, MESH_AXES)
    student = sharded_bytes(mesh, state.student)
    several = config.train.micro_batches > 1
    base = Memory(
        student=student,
        teacher=sharded_bytes(mesh, (state.teacher, state.gram_teacher, state.frozen_teacher)),
        moments=sharded_bytes(mesh, state.moments),
        batch=images_per_device(config, shape) * config.data.canvas_px**2 * config.student.in_chans,
        views=0,
        activations=0,
        layer=0,
        logits=0,
        gradients=student if several else 0,  # the sum so far
    )
    precision = get_precision(config.train.precision)
    heads, layer = _weight_copies(mesh, state.student, precision)
    crops, activations = crop_bytes(config, shape), kept_for_backward(config, shape)
    kept = base._replace(views=crop_bytes(config, shape, gram=False) // 2, activations=activations)
    teachers, theirs = base._replace(views=crops), layer
    if state.frozen_teacher is not None:
        # Seen last by the TPU compiler's programs, which take the other teachers first.
        frozen_heads, theirs = _weight_copies(mesh, state.frozen_teacher, precision)
        teachers = kept._replace(logits=frozen_heads)
    outputs = output_bytes(config, images_per_device(config, shape), shape.tensor, fused=fused)
    return {
        "views": base._replace(views=crops + view_workspace(config, shape)),
        "teachers": teachers._replace(layer=teacher_workspace(config, shape) + theirs),
        "losses": kept._replace(logits=outputs + heads + similarity_bytes(config, shape)),
        "backward": kept._replace(
            layer=layer_workspace(config, shape) + layer, gradients=base.gradients + student
        ),
    }


def _of_students(
    config: Config, shape: MeshShape, state: Students, fused: bool
) -> dict[str, Memory]:
    ones = [
        high_points(one, shape, state.one(name), fused=fused)
        for name, one in student_configs(config).items()
    ]
    there = {
        name: sum(getattr(one["views"], name) for one in ones)
        for name in ("student", "teacher", "moments")
    }
    frozen = sharded_bytes(AbstractMesh(shape, MESH_AXES), state.frozen_teacher)
    there["teacher"] -= (len(ones) - 1) * frozen  # one for all
    shared = kept_for_students(config, images_per_device(config, shape))
    # The views of all micro-batches, as one of them after another asks for its part.
    others = (config.train.micro_batches - 1) * crop_bytes(config, shape)
    largest = {stage: max((one[stage] for one in ones), key=sum) for stage in ones[0]}
    return {
        stage: one._replace(**there, views=one.views + others, logits=one.logits + shared)
        for stage, one in largest.items()
    }


def sharded_bytes(mesh: AbstractMesh, tree: PyTree) -> int:
    """Of all leaves on one device, by the rules of `dinojax.mesh`."""
    layout = meshes.shardings(mesh, tree)
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(layout), strict=True)
    )


def _weight_copies(mesh: AbstractMesh, student: PyTree, precision: Precision) -> tuple[int, int]:
    """In the compute dtype and whole but for tensor: both heads, and one layer."""
    whole = AbstractMesh((1, 1, mesh.shape["tensor"]), (*meshes.BATCH_AXES, "tensor"))
    narrow = np.dtype(precision.compute).itemsize / np.dtype(precision.param).itemsize
    heads = sum(sharded_bytes(whole, student[name]) for name in student if name != "backbone")
    stacks = {k: v for k, v in student["backbone"].items() if k.startswith(("blocks", "stage_"))}
    layer = max(
        sharded_bytes(whole, {name: layers}) / jax.tree.leaves(layers)[0].shape[0]
        for name, layers in stacks.items()
    )
    return int(narrow * heads), int(narrow * layer)
