"""Bytes per device of one training step, from the configuration alone.

The state is exact. What the step makes on the way is counted as the algorithm needs it at its three
high points (views, losses, first layer of the backward pass); `docs/plan.md` compares the sum with
what the TPU compiler allocates.
"""

import math
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh

from dinojax import mesh as meshes
from dinojax.build import (
    build_mask_counts,
    build_model,
    build_views,
    draw_group_size,
)
from dinojax.config import Config
from dinojax.models.block import kept_count
from dinojax.models.convnext import ConvNeXt
from dinojax.models.embed import patch_grid
from dinojax.models.ffn import hidden_width
from dinojax.models.vit import VisionTransformer
from dinojax.planning import convnext_memory
from dinojax.precision import get_precision
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.students import student_configs
from dinojax.typing import PyTree
from dinojax.views.recipe import ViewRecipe

LANES = 128
"""TPUs fill the last axis of an array up to a multiple of this."""
GLOBAL_VIEWS = 2
MESH_AXES = (*meshes.BATCH_AXES, "tensor")


class MeshShape(NamedTuple):
    """Devices per axis."""

    data: int
    fsdp: int
    tensor: int

    @property
    def batch_shards(self) -> int:
        return self.data * self.fsdp


class Tokens(NamedTuple):
    """One crop size on one device, in one micro-batch."""

    crops: int
    kept: int
    """Crops that a residual branch runs on, after stochastic depth."""
    length: int


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
    """What one layer's backward pass works on, with its gathered weights."""
    logits: int
    """Prototype logits and targets, with gathered prototypes."""
    gradients: int

    @property
    def total(self) -> int:
        return sum(self)


def predict_memory(config: Config, shape: MeshShape, state: TrainState | Students) -> Memory:
    """Of one resolution (`dinojax.resolutions`) on a mesh of TPUs or GPUs.

    `state`: shapes of `build_init`. Several students are there at once and take steps in turn.
    """
    if isinstance(state, Students):
        ones = [
            _predict(one, shape, state.students[name])
            for name, one in student_configs(config).items()
        ]
        frozen = sharded_bytes(AbstractMesh(shape, MESH_AXES), state.frozen_teacher)
        there = {name: sum(getattr(one, name) for one in ones) for name in Memory._fields[:3]}
        largest = max(ones, key=lambda one: one.total)
        return largest._replace(**{**there, "teacher": there["teacher"] + frozen})
    return _predict(config, shape, state)


def _predict(config: Config, shape: MeshShape, state: TrainState) -> Memory:
    mesh = AbstractMesh(shape, MESH_AXES)
    student = sharded_bytes(mesh, state.student)
    parts = config.train.micro_batches
    base = Memory(
        student=student,
        teacher=sharded_bytes(mesh, (state.teacher, state.gram_teacher, state.frozen_teacher)),
        moments=sharded_bytes(mesh, state.moments),
        batch=_images(config, shape) * config.data.canvas_px**2 * config.student.in_chans,
        views=0,
        activations=0,
        layer=0,
        logits=0,
        gradients=student if parts > 1 else 0,  # the sum so far
    )
    crops = _crop_bytes(config, shape)
    activations = _kept_for_backward(config, shape)
    prototypes, weights = _gathered_bytes(
        mesh, state.student, get_precision(config.train.precision)
    )
    high_points = (
        base._replace(views=crops + _view_workspace(config, shape)),
        base._replace(
            views=crops // 2, activations=activations, logits=_logits(config, shape) + prototypes
        ),
        base._replace(
            views=crops // 2,
            activations=activations,
            layer=_layer_workspace(config, shape) + weights,
            gradients=base.gradients + student,
        ),
    )
    return max(high_points, key=lambda memory: memory.total)


def sharded_bytes(mesh: AbstractMesh, tree: PyTree) -> int:
    """Of all leaves on one device, by the rules of `dinojax.mesh`."""
    layout = meshes.shardings(mesh, tree)
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(layout), strict=True)
    )


def token_streams(config: Config, shape: MeshShape) -> list[Tokens]:
    """Global and local crops of a micro-batch on one device."""
    backbone, views = build_model(config).backbone, build_views(config)
    images = _images(config, shape) // config.train.micro_batches
    group = draw_group_size(config)
    streams = []
    for crops, size in (
        (GLOBAL_VIEWS, views.global_crops_size),
        (views.local_crops_number, views.local_crops_size),
    ):
        kept = kept_count(crops * group, config.student.drop_path_rate) if crops else 0
        length = math.prod(patch_grid(size, size, backbone.stride))
        streams.append(
            Tokens(
                crops * images,
                kept * images // group,
                length + 1 + getattr(backbone, "n_storage_tokens", 0),
            )
        )
    return [stream for stream in streams if stream.crops]


def _crop_streams(config: Config, shape: MeshShape) -> list[tuple[int, int]]:
    """(crops of a micro-batch on one device, their side in px)."""
    views, images = build_views(config), _images(config, shape) // config.train.micro_batches
    sizes = (
        (GLOBAL_VIEWS, views.global_crops_size),
        (views.local_crops_number, views.local_crops_size),
    )
    return [(crops * images, side) for crops, side in sizes if crops]


def _images(config: Config, shape: MeshShape) -> int:
    return config.train.batch_size // shape.batch_shards


def _crop_bytes(config: Config, shape: MeshShape) -> int:
    views: ViewRecipe = build_views(config)
    pixels = GLOBAL_VIEWS * _padded(views.global_crops_size) * views.global_crops_size
    if config.gram.use_loss and views.gram_teacher_crops_size is not None:
        side = views.gram_teacher_crops_size
        pixels += GLOBAL_VIEWS * _padded(side) * side
    pixels += views.local_crops_number * _padded(views.local_crops_size) * views.local_crops_size
    item = np.dtype(get_precision(config.train.precision).param).itemsize
    images = _images(config, shape) // config.train.micro_batches
    return images * pixels * config.student.in_chans * item


def _view_workspace(config: Config, shape: MeshShape) -> int:
    """Canvases of which columns are resampled and rows are not yet, for all global crops."""
    size = build_views(config).global_crops_size
    rows = GLOBAL_VIEWS * _padded(config.data.canvas_px) * size
    images = _images(config, shape) // config.train.micro_batches
    return images * rows * config.student.in_chans * 4


def _kept_for_backward(config: Config, shape: MeshShape) -> int:
    """Per layer: its input, and what the remat policy keeps of the rows that branches run on."""
    backbone = build_model(config).backbone
    item = np.dtype(backbone.precision.compute).itemsize
    if isinstance(backbone, ConvNeXt):
        return convnext_memory.kept_for_backward(backbone, _crop_streams(config, shape), item)
    total = 0
    for crops, kept, length in token_streams(config, shape):
        stream = crops * length * backbone.embed_dim
        total += backbone.depth * item * (stream + kept * _saved_per_row(backbone, shape, length))
    return total


def _saved_per_row(backbone: VisionTransformer, shape: MeshShape, length: int) -> int:
    """Numbers that a layer keeps of one image besides its input."""
    if backbone.remat == "full":
        return 0
    width, hidden = backbone.embed_dim, _hidden(backbone)
    gated = backbone.ffn_layer != "mlp"
    split = (3 * width + hidden * (2 if gated else 1)) // shape.tensor
    dots = length * (split + 2 * width)
    if backbone.remat == "dots":
        return dots
    heads = backbone.num_heads // shape.tensor
    return 2 * dots + 3 * heads * length * _padded(length) + 4 * length * width


def _layer_workspace(config: Config, shape: MeshShape) -> int:
    """Of the larger stream: attention's weights and their gradients, or the hidden features'."""
    backbone = build_model(config).backbone
    if isinstance(backbone, ConvNeXt):
        return convnext_memory.layer_workspace(backbone, _crop_streams(config, shape))
    heads, hidden = backbone.num_heads // shape.tensor, _hidden(backbone) // shape.tensor
    gated = backbone.ffn_layer != "mlp"
    largest = 0
    for crops, kept, length in token_streams(config, shape):
        attention = kept * heads * length * _padded(length) * (4 + 4 + 2)
        ffn = kept * length * hidden * (12 if gated else 8)
        stream = crops * length * backbone.embed_dim * (4 + 2)
        largest = max(largest, max(attention, ffn) + stream)
    return largest


def _logits(config: Config, shape: MeshShape) -> int:
    """Targets in float32 and students' logits in both widths; in chunks, a chunk of each."""
    images = _images(config, shape)
    counts = build_mask_counts(config)
    masked = int(counts.sum()) * images // draw_group_size(config)
    locals_ = build_views(config).local_crops_number
    chunk, parts = config.train.prototype_chunk, config.train.micro_batches
    total = 0
    for rows, students, prototypes, head in (
        (GLOBAL_VIEWS * images, (GLOBAL_VIEWS + locals_) * images, "dino", config.dino.head),
        (masked, masked, "ibot", config.ibot.head),
    ):
        del prototypes
        columns = head.n_prototypes // shape.tensor
        if chunk is None and parts == 1:
            total += columns * (4 * rows + (4 + 2) * students)
        else:
            taken = (rows + students) // parts
            taken = min(taken, chunk or taken)
            total = max(total, columns * taken * (4 + 4 + 2))
    return total


def _gathered_bytes(mesh: AbstractMesh, student: PyTree, precision) -> tuple[int, int]:
    """Weights of both heads, and twice those of a layer, whole but for tensor, in compute dtype."""
    whole = AbstractMesh((1, 1, mesh.shape["tensor"]), (*meshes.BATCH_AXES, "tensor"))
    scale = np.dtype(precision.compute).itemsize / np.dtype(precision.param).itemsize
    heads = sum(sharded_bytes(whole, student[name]) for name in student if name != "backbone")
    blocks = sharded_bytes(whole, {"blocks": student["backbone"]["blocks"]})
    depth = jax.tree.leaves(student["backbone"]["blocks"])[0].shape[0]
    return int(heads * scale), int(2 * blocks / depth * scale)


def _hidden(backbone: VisionTransformer) -> int:
    return hidden_width(backbone.embed_dim, backbone.ffn_ratio, backbone.ffn_layer)


def _padded(size: int) -> int:
    return math.ceil(size / LANES) * LANES
