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
from dinojax.build import build_model, build_views, draw_group_size
from dinojax.config import Config
from dinojax.models.block import kept_count
from dinojax.models.convnext import ConvNeXt
from dinojax.models.embed import patch_grid
from dinojax.models.ffn import hidden_width
from dinojax.models.vit import VisionTransformer
from dinojax.planning import convnext_memory
from dinojax.planning.head_memory import kept_for_students, output_bytes
from dinojax.precision import Precision, get_precision
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.students import student_configs
from dinojax.typing import PyTree
from dinojax.views.recipe import ViewRecipe

LANES, SUBLANES = 128, 8
"""TPUs fill the last two axes of an array, the last one first, up to multiples of these."""
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
    """Prototype logits and targets, with both heads' gathered weights. Or features that are
    matched, with the projections'."""
    gradients: int

    @property
    def total(self) -> int:
        return sum(self)


def predict_memory(config: Config, shape: MeshShape, state: TrainState | Students) -> Memory:
    """The highest of `high_points`."""
    return max(high_points(config, shape, state).values(), key=lambda memory: memory.total)


def high_points(
    config: Config, shape: MeshShape, state: TrainState | Students
) -> dict[str, Memory]:
    """A step's three, of a configuration of one resolution (`dinojax.resolutions`).

    The views; the losses, with all that the forward pass keeps; the backward pass of the last
    layer, with all gradients laid out. `state`: shapes of `build_init`. Several students are there
    at once and take their steps in turn.
    """
    if isinstance(state, Students):
        return _of_students(config, shape, state)
    mesh = AbstractMesh(shape, MESH_AXES)
    student = sharded_bytes(mesh, state.student)
    several = config.train.micro_batches > 1
    base = Memory(
        student=student,
        teacher=sharded_bytes(mesh, (state.teacher, state.gram_teacher, state.frozen_teacher)),
        moments=sharded_bytes(mesh, state.moments),
        batch=_images(config, shape) * config.data.canvas_px**2 * config.student.in_chans,
        views=0,
        activations=0,
        layer=0,
        logits=0,
        gradients=student if several else 0,  # the sum so far
    )
    precision = get_precision(config.train.precision)
    heads, layer = _weight_copies(mesh, state.student, precision)
    crops, activations = _crop_bytes(config, shape), _kept_for_backward(config, shape)
    kept = base._replace(views=crops // 2, activations=activations)
    outputs = output_bytes(config, _images(config, shape), shape.tensor)
    return {
        "views": base._replace(views=crops + _view_workspace(config, shape)),
        "losses": kept._replace(logits=outputs + heads),
        "backward": kept._replace(
            layer=_layer_workspace(config, shape) + layer, gradients=base.gradients + student
        ),
    }


def _of_students(config: Config, shape: MeshShape, state: Students) -> dict[str, Memory]:
    ones = [
        high_points(one, shape, state.students[name])
        for name, one in student_configs(config).items()
    ]
    there = {
        name: sum(getattr(one["views"], name) for one in ones)
        for name in ("student", "teacher", "moments")
    }
    there["teacher"] += sharded_bytes(AbstractMesh(shape, MESH_AXES), state.frozen_teacher)
    shared = kept_for_students(config, _images(config, shape))
    # The views of all micro-batches, as one of them after another asks for its part.
    others = (config.train.micro_batches - 1) * _crop_bytes(config, shape)
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
        stream = crops * _padded(length, SUBLANES) * backbone.embed_dim * item
        total += backbone.depth * (stream + kept * _saved_per_crop(backbone, shape, length))
    return total


def _saved_per_crop(backbone: VisionTransformer, shape: MeshShape, length: int) -> int:
    """Bytes that a layer keeps of one crop besides its input."""
    if backbone.remat == "full":
        return 0
    width, hidden = backbone.embed_dim, _hidden(backbone) // shape.tensor
    inputs = 2 if backbone.ffn_layer != "mlp" else 1
    item, tokens = np.dtype(backbone.precision.compute).itemsize, _padded(length, SUBLANES)
    if backbone.remat == "dots":
        return item * tokens * (3 * width // shape.tensor + inputs * hidden + 2 * width)
    # Everything that is not fused: six widths of it, and attention's weights, in float32 as well.
    branches = tokens * (item * (4 * inputs * hidden + 10 * width) + 4 * 6 * width)
    weights = backbone.num_heads // shape.tensor * length * _padded(length)
    return branches + weights * (item if item >= 4 else item + 4)


def _layer_workspace(config: Config, shape: MeshShape) -> int:
    """Of both streams, whose backward passes XLA interleaves.

    Hidden features before and after the activation and their gradients; q, k, v and normed inputs
    in float32; the residual branch in the compute dtype; attention weights in float32.
    """
    backbone = build_model(config).backbone
    if isinstance(backbone, ConvNeXt):
        return convnext_memory.layer_workspace(backbone, _crop_streams(config, shape))
    heads, hidden = backbone.num_heads // shape.tensor, _hidden(backbone) // shape.tensor
    item = np.dtype(backbone.precision.compute).itemsize
    width = backbone.embed_dim
    total = 0
    for _, kept, length in token_streams(config, shape):
        features = (7 if backbone.ffn_layer != "mlp" else 4) * item * hidden
        features += width * (3 * 4 // shape.tensor + 2 * 4 + 6 * item)
        total += kept * _padded(length, SUBLANES) * features
        total += kept * heads * length * _padded(length) * 4
    return total


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


def _hidden(backbone: VisionTransformer) -> int:
    return hidden_width(backbone.embed_dim, backbone.ffn_ratio, backbone.ffn_layer)


def _padded(size: int, multiple: int = LANES) -> int:
    return math.ceil(size / multiple) * multiple
