"""Impossible configurations, refused in one sentence before any device is touched."""

import jax

from dinojax.build import (
    CENTERINGS,
    build_backbone,
    build_init,
    build_recipe,
    build_schedules,
    draw_group_size,
)
from dinojax.config import Config
from dinojax.precision import get_precision
from dinojax.ssl.prepare import group_mask_counts
from dinojax.views.recipe import validate as validate_recipe


def validate(config: Config, *, batch_shards: int) -> None:
    """Check everything that can be checked without arrays.

    Args:
        batch_shards: parts the batch is split into (data x fsdp devices).

    Raises:
        ValueError: names the key, its value, the rule and a value that works.
    """
    _check_sizes(config)
    _check_groups(config, batch_shards)
    if config.train.centering not in CENTERINGS:
        raise ValueError(
            f"train.centering={config.train.centering!r} is unknown; use one of {list(CENTERINGS)}"
        )
    for name, value in (
        ("train.steps", config.train.steps),
        ("train.log_every_steps", config.train.log_every_steps),
        ("data.canvas_px", config.data.canvas_px),
        ("student.in_chans", config.student.in_chans),
        ("checkpoint.every_steps", config.checkpoint.every_steps),
    ):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    _check_later_stages(config)
    validate_recipe(build_recipe(config), config.student.in_chans)
    _check_schedules(config)
    jax.eval_shape(build_init(config))  # the model has checks of its own


def _check_later_stages(config: Config) -> None:
    """Keys that pretraining would have to ignore."""
    for name, absent in (("gram_teacher_crops_size", None), ("gram_teacher_no_distortions", False)):
        value = getattr(config.crops, name)
        if value != absent:
            raise ValueError(
                f"crops.{name}={value} is for the Gram anchoring stage, which pretraining does not "
                f"have; set it to {absent}"
            )


def _check_schedules(config: Config) -> None:
    optim = config.optim
    schedules = {
        "optim.lr": optim.lr,
        "optim.weight_decay": optim.weight_decay,
        "optim.momentum": optim.momentum,
        "optim.teacher_temp": optim.teacher_temp,
        "dino.local_loss_weight": config.dino.local_loss_weight,
    }
    for name, schedule in schedules.items():
        if schedule.family == "dinov3" and schedule.trunc_extra:
            raise ValueError(
                f"{name}.trunc_extra={schedule.trunc_extra} is for the dinov2 family, and family="
                f"'dinov3'; set it to 0.0 or {name}.family to 'dinov2'"
            )
        if schedule.family == "dinov2" and schedule.cosine_steps is not None:
            raise ValueError(
                f"{name}.cosine_steps={schedule.cosine_steps} is for the dinov3 family, and family="
                f"'dinov2'; set it to None or {name}.family to 'dinov3'"
            )
    build_schedules(config)


def _check_sizes(config: Config) -> None:
    backbone = build_backbone(config, get_precision(config.train.precision))
    patch = backbone.patch_size
    for name in ("global_crops_size", "local_crops_size"):
        size = getattr(config.crops, name)
        if size < patch or size % patch:
            below = max(size // patch * patch, patch)
            raise ValueError(
                f"crops.{name}={size} is not a multiple of patch_size={patch}; "
                f"use {below} or {below + patch}"
            )
    if config.knn.every_steps and config.knn.image_px % patch:
        raise ValueError(
            f"knn.image_px={config.knn.image_px} is not a multiple of patch_size={patch}; "
            f"use {max(config.knn.image_px // patch * patch, patch)}"
        )
    if backbone.init_std <= 0:
        raise ValueError(f"student.init_std={backbone.init_std} must be above 0; use 0.02")
    if backbone.embed_dim % backbone.num_heads:
        raise ValueError(
            f"student.embed_dim={backbone.embed_dim} is not a multiple of "
            f"num_heads={backbone.num_heads}; use {backbone.num_heads * 64}"
        )


def _check_groups(config: Config, batch_shards: int) -> None:
    batch, group = config.train.batch_size, draw_group_size(config)
    groups = batch // group if group > 0 else 0
    if group < 1 or batch % group or groups % batch_shards:
        working = [
            g for g in range(1, batch + 1) if batch % g == 0 and (batch // g) % batch_shards == 0
        ]
        fix = (
            f"use one of train.draw_group_size={working[-4:]}"
            if working
            else f"use a train.batch_size that is a multiple of {batch_shards}"
        )
        raise ValueError(
            f"train.batch_size={batch} in groups of train.draw_group_size={group} does not split "
            f"over {batch_shards} batch shards; the number of groups must be a multiple: {fix}"
        )
    koleo = config.dino.koleo_group_size or group
    if batch % koleo or koleo <= config.dino.koleo_topk:
        raise ValueError(
            f"dino.koleo_group_size={koleo} must divide train.batch_size={batch} and exceed "
            f"koleo_topk={config.dino.koleo_topk}; use {batch}"
        )
    patch = build_backbone(config, get_precision(config.train.precision)).patch_size
    patches = (config.crops.global_crops_size // patch) ** 2
    counts = group_mask_counts(
        group_size=group,
        num_patches=patches,
        sample_probability=config.ibot.mask_sample_probability,
        ratio_min_max=config.ibot.mask_ratio_min_max,
    )
    if not counts.sum():
        raise ValueError(
            f"ibot.mask_ratio_min_max={config.ibot.mask_ratio_min_max} with mask_sample_probability"
            f"={config.ibot.mask_sample_probability} masks none of {patches} patches per crop in "
            f"groups of {group} images; raise them, or enlarge crops.global_crops_size"
        )
