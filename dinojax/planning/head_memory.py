"""Bytes of what comes out of heads on one device: prototype logits, or projected features."""

import numpy as np

from dinojax.build.inputs import build_mask_counts, build_views, draw_group_size
from dinojax.build.model import build_frozen_model, build_model
from dinojax.config import Config
from dinojax.models.embed import patch_grid
from dinojax.precision import get_precision
from dinojax.ssl.matching import MatchingModel
from dinojax.ssl.prepare import GLOBAL_VIEWS


def output_bytes(config: Config, images: int, tensor: int, *, fused: bool = False) -> int:
    """Of teacher and student, with gradients; of a step of `images` on this device.

    `fused`: logits never leave the kernels that make them, as on TPUs.
    """
    model = build_model(config)
    if isinstance(model, MatchingModel):
        return _features(config, model, images // config.train.micro_batches)
    gradients = _prototype_gradients(config, tensor)
    return gradients if fused else _logits(config, images, tensor)


def kept_for_students(config: Config, images: int) -> int:
    """What a teacher of several students keeps of a whole step until the last one has learnt."""
    frozen = build_frozen_model(config)
    if not isinstance(frozen, MatchingModel):
        return 0
    return teacher_tokens(config, images) * frozen.backbone.embed_dim * _item(config)


def teacher_tokens(config: Config, images: int) -> int:
    """CLS and patches that a frozen teacher makes of `images`."""
    frozen = build_frozen_model(config)
    assert frozen is not None
    side = build_views(config).global_crops_size
    side = round(side / config.crops.teacher_to_student_resolution_scale)
    rows, columns = patch_grid(side, side, frozen.backbone.stride)
    return images * GLOBAL_VIEWS * (1 + rows * columns)


def _features(config: Config, model: MatchingModel, images: int) -> int:
    """The teacher's, normed in float32; the student's, with their gradient in float32.

    Hidden ones before and after the activation.
    """
    side, projection = build_views(config).global_crops_size, model.patch_projection
    assert projection is not None
    rows, columns = patch_grid(side, side, model.backbone.stride)
    item = _item(config)
    per_token = projection.width * (item + 4 + item + 4) + (projection.hidden_dim or 0) * 2 * item
    return images * GLOBAL_VIEWS * (1 + rows * columns) * per_token


def _logits(config: Config, images: int, tensor: int) -> int:
    """Of teacher, student and their gradient in the compute dtype, CLS targets in float32.

    In chunks, a chunk of them in float32, and the prototypes' gradients.
    """
    counts = build_mask_counts(config)
    masked = int(counts.sum()) * images // draw_group_size(config)
    crops = GLOBAL_VIEWS + build_views(config).local_crops_number
    chunk, parts = config.train.prototype_chunk, config.train.micro_batches
    item = _item(config)
    dino = config.dino.head.n_prototypes // tensor
    ibot = config.ibot.head.n_prototypes // tensor
    if chunk is None and parts == 1:
        return images * dino * (4 * GLOBAL_VIEWS + 2 * item * crops) + masked * ibot * 3 * item
    rows = ((GLOBAL_VIEWS + crops) * images // parts, 2 * masked // parts)
    rows = tuple(min(taken, chunk or taken) for taken in rows)
    gradients = _prototype_gradients(config, tensor)
    return max(rows[0] * dino, rows[1] * ibot) * (4 + 4 + item) + gradients


def _prototype_gradients(config: Config, tensor: int) -> int:
    """In float32, as the losses that take them in the forward pass keep them."""
    heads = config.dino.head, config.ibot.head
    return sum(4 * head.bottleneck_dim * (head.n_prototypes // tensor) for head in heads)


def _item(config: Config) -> int:
    return np.dtype(get_precision(config.train.precision).compute).itemsize
