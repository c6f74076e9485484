"""What a device works on in one micro-batch: images, crops and tokens."""

import math
from typing import NamedTuple

from dinojax.build.gram import has_gram_teacher
from dinojax.build.inputs import build_views, draw_group_size
from dinojax.build.model import build_frozen_model, build_model
from dinojax.config import Config
from dinojax.models.block import kept_count
from dinojax.models.embed import patch_grid
from dinojax.models.presets import Backbone
from dinojax.ssl.prepare import GLOBAL_VIEWS

LANES, SUBLANES = 128, 8
"""TPUs fill the last two axes of an array, the last one first, up to multiples of these."""


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


def crop_streams(config: Config, shape: MeshShape) -> list[tuple[int, int]]:
    """(crops of a micro-batch on one device, their side in px): those that the student sees."""
    views, images = build_views(config), images_per_device(config, shape, micro_batch=True)
    sizes = (
        (GLOBAL_VIEWS, views.global_crops_size),
        (views.local_crops_number, views.local_crops_size),
    )
    return [(crops * images, side) for crops, side in sizes if crops]


def token_streams(config: Config, shape: MeshShape) -> list[Tokens]:
    """Of the student: global and local crops of a micro-batch on one device."""
    backbone, group = build_model(config).backbone, draw_group_size(config)
    images = images_per_device(config, shape, micro_batch=True)
    streams = []
    for crops, side in crop_streams(config, shape):
        kept = kept_count(crops // images * group, config.student.drop_path_rate)
        streams.append(Tokens(crops, kept * images // group, token_count(backbone, side)))
    return streams


def teacher_streams(config: Config, shape: MeshShape) -> list[tuple[Backbone, Tokens]]:
    """Of the teachers, without stochastic depth: global crops, and those for Gram anchoring."""
    model, frozen, views = build_model(config), build_frozen_model(config), build_views(config)
    crops = GLOBAL_VIEWS * images_per_device(config, shape, micro_batch=True)
    side = views.global_crops_size
    scale = config.crops.teacher_to_student_resolution_scale
    seen = [((frozen or model).backbone, round(side / scale))]
    if has_gram_teacher(config.gram):
        seen.append((model.backbone, views.gram_teacher_crops_size or side))
    return [(backbone, Tokens(crops, crops, token_count(backbone, px))) for backbone, px in seen]


def token_count(backbone: Backbone, side: int) -> int:
    """Of a square image: patches, CLS and registers."""
    patches = math.prod(patch_grid(side, side, backbone.stride))
    return patches + 1 + getattr(backbone, "n_storage_tokens", 0)


def images_per_device(config: Config, shape: MeshShape, *, micro_batch: bool = False) -> int:
    images = config.train.batch_size // shape.batch_shards
    return images // config.train.micro_batches if micro_batch else images


def padded(size: int, multiple: int = LANES) -> int:
    return math.ceil(size / multiple) * multiple
