"""Impossible configurations, refused in one sentence before any device is touched."""

import jax

from dinojax.build.inputs import build_views
from dinojax.build.loss import CENTERINGS
from dinojax.build.model import build_backbone
from dinojax.build.schedules import build_schedule, build_schedules
from dinojax.build.step import build_init
from dinojax.config import Config
from dinojax.config.data import DataConfig
from dinojax.config.distillation_validation import check_distillation, check_students
from dinojax.config.gram_validation import check_gram
from dinojax.config.mesh_validation import check_mesh
from dinojax.config.ranges import check_ranges
from dinojax.config.resolutions import resolution_order, resolutions
from dinojax.config.stage_validation import check_init, check_recovery
from dinojax.config.students import student_configs
from dinojax.models.convnext import ConvNeXt
from dinojax.models.vit import VisionTransformer
from dinojax.precision import get_precision
from dinojax.runtime.guardian import check as check_guardian
from dinojax.training.data import build_order
from dinojax.views.recipe import validate as validate_recipe

MASK_RULES = ("dinov3", "dinov2")


def validate(config: Config, *, batch_shards: int, tensor: int = 1) -> None:
    """Check everything that can be checked without arrays: `check_config`, then `check_mesh`."""
    check_config(config)
    check_mesh(config, batch_shards=batch_shards, tensor=tensor)


def check_config(config: Config) -> None:
    """Check what does not depend on the mesh.

    Raises:
        ValueError: names the key, its value, the rule and a value that works.
    """
    check_ranges(config)
    _check_backbone(config)
    _check_patch_objective(config)
    students = student_configs(config)
    if students:
        check_students(config)
    for one in students.values():
        check_config(one)
    _check_rollback(config)
    _check_guardian(config)
    for resolution in resolutions(config):
        _check_sizes(resolution)
        check_gram(resolution, _patch_size(resolution))
        check_distillation(resolution)
        validate_recipe(build_views(resolution), config.student.in_chans)
    _check_canvas(config)
    resolution_order(config)
    _check_mixture(config.data)
    build_order(config, (1,) * max(len(config.data.mixture), 1))  # has checks of its own
    if config.train.centering not in CENTERINGS:
        raise ValueError(
            f"train.centering={config.train.centering!r} is unknown; use one of {list(CENTERINGS)}"
        )
    check_init(config.init)
    check_recovery(config)
    _check_moments(config.optim.moments_dtype)
    _check_schedules(config)
    jax.eval_shape(build_init(config))  # the model has checks of its own


def _check_canvas(config: Config) -> None:
    """Images are averaged down to the canvas before crops are cut: no crop has more pixels."""
    largest, name = max(
        (getattr(resolution.crops, name) or 0, name)
        for resolution in resolutions(config)
        for name in ("global_crops_size", "gram_teacher_crops_size")
    )
    if config.data.canvas_px < largest:
        raise ValueError(
            f"data.canvas_px={config.data.canvas_px} is smaller than crops.{name}={largest}, which "
            f"would enlarge even the largest images; use data.canvas_px={largest}"
        )


def _check_mixture(data: DataConfig) -> None:
    """The names; `Order` checks the numbers."""
    names = [name for name, _ in data.mixture]
    default = DataConfig().source
    if names and data.source != default:
        raise ValueError(
            f"data.source={data.source!r} and data.mixture exclude each other; name all sources in "
            f"data.mixture and leave data.source at {default!r}"
        )
    if names and data.ids is not None:
        raise ValueError(
            f"data.ids={data.ids!r} selects from data.source, not from data.mixture; write "
            f"'ids:{data.ids}:{names[0]}' in the mixture"
        )
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(
            f"data.mixture names {twice[0]!r} twice; give it once, with the sum of the weights"
        )
    if data.homogeneous_source is not None and data.homogeneous_source not in names:
        raise ValueError(
            f"data.homogeneous_source={data.homogeneous_source!r} is not in data.mixture; use one "
            f"of {names} or add it there with weight 0.0"
        )


def _check_moments(dtype: str | None) -> None:
    if dtype not in (None, "bfloat16"):
        raise ValueError(
            f"optim.moments_dtype={dtype!r} is unknown; use None (that of the parameters) or "
            "'bfloat16'"
        )


def _check_backbone(config: Config) -> None:
    """What it is asked to do needs a backbone that can."""
    backbone = build_backbone(config, get_precision(config.train.precision))
    if isinstance(backbone, ConvNeXt) and config.distillation.teacher is None:
        raise ValueError(
            f"student.arch={config.student.arch!r} has no mask token, so it cannot predict masked "
            "patches; distil it: set distillation.teacher"
        )
    if isinstance(backbone, VisionTransformer) and backbone.pos_embed_grid is None:
        return
    for name in ("shift", "jitter", "rescale"):
        key = f"pos_embed_rope_{name}_coords"
        value = getattr(config.student, key)
        if value is not None:
            raise ValueError(
                f"student.{key}={value} is for backbones with RoPE, which "
                f"arch={config.student.arch!r} does not have; set it to None"
            )


def _check_patch_objective(config: Config) -> None:
    if config.ibot.mask_rule not in MASK_RULES:
        raise ValueError(
            f"ibot.mask_rule={config.ibot.mask_rule!r} is unknown; use one of {list(MASK_RULES)}"
        )
    if not config.ibot.separate_head and config.ibot.head != config.dino.head:
        raise ValueError(
            "ibot.separate_head=False sends patches through the head of dino.head, and ibot.head "
            "differs from it; make them equal, or set ibot.separate_head to True"
        )


def _check_schedules(config: Config) -> None:
    optim = config.optim
    schedules = {
        "optim.lr": optim.lr,
        "optim.weight_decay": optim.weight_decay,
        "optim.momentum": optim.momentum,
        "optim.teacher_temp": optim.teacher_temp,
        "dino.local_loss_weight": config.dino.local_loss_weight,
        "gram.loss_weight": config.gram.loss_weight,
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
    temperature = optim.teacher_temp
    for name in ("start", "peak", "end") if temperature.warmup_steps else ("peak", "end"):
        if getattr(temperature, name) <= 0:
            raise ValueError(
                f"optim.teacher_temp.{name}={getattr(temperature, name)} must be above 0; use 0.07"
            )
    build_schedules(config)
    build_schedule("gram.loss_weight", config.gram.loss_weight, config.train.steps)


def _patch_size(config: Config) -> int:
    return build_backbone(config, get_precision(config.train.precision)).stride


def _check_rollback(config: Config) -> None:
    """The checkpoint before the first bad step must still be there when the last is noticed."""
    saves, train = config.checkpoint, config.train
    back = train.rollback_after + 2 * train.log_every_steps
    if train.rollback_after and (saves.keep_last - 1) * saves.every_steps < back:
        raise ValueError(
            f"checkpoint.keep_last={saves.keep_last} at checkpoint.every_steps={saves.every_steps} "
            f"reaches back less than the {back} steps after which train.rollback_after="
            f"{train.rollback_after} is noticed; use checkpoint.keep_last="
            f"{-(-back // saves.every_steps) + 1} or train.rollback_after=0"
        )


def _check_guardian(config: Config) -> None:
    """Its action has to be possible when an evaluation shows that steps since the last were bad."""
    action, saves, every = config.guardian.action, config.checkpoint, config.knn.every_steps
    check_guardian(action, config.guardian.ignore)
    if action != "warn" and not every:
        raise ValueError(
            f"guardian.action={action!r} with knn.every_steps=0, so that there are no scores to "
            "look at; use knn.every_steps=5000 or guardian.action='warn'"
        )
    if action == "rollback" and (saves.keep_last - 1) * saves.every_steps < every:
        raise ValueError(
            f"checkpoint.keep_last={saves.keep_last} at checkpoint.every_steps={saves.every_steps} "
            f"reaches back less than the {every} steps of knn.every_steps, after which "
            f"guardian.action='rollback' goes back; use checkpoint.keep_last="
            f"{-(-every // saves.every_steps) + 1} or guardian.action='stop'"
        )


def _check_sizes(config: Config) -> None:
    backbone = build_backbone(config, get_precision(config.train.precision))
    patch, views = backbone.stride, build_views(config)
    size = views.global_crops_size
    if size < patch or size % patch:
        below = max(size // patch * patch, patch)
        raise ValueError(
            f"crops.global_crops_size={size} is not a multiple of patch_size={patch}; "
            f"use {below} or {below + patch}"
        )
    # No multiple here: DINOv3's own list has 168 with patches of 16, whose remainder goes unused.
    if views.local_crops_size < patch:
        raise ValueError(
            f"crops.local_crops_size={views.local_crops_size} is smaller than patch_size={patch}; "
            f"use {6 * patch}"
        )
    for name, section, side in (("knn", config.knn, 2), ("panels", config.panels, 1)):
        if section.every_steps and (section.image_px < side * patch or section.image_px % patch):
            raise ValueError(
                f"{name}.image_px={section.image_px} is not a multiple of patch_size={patch} with "
                f"at least {side} patches along a side; use "
                f"{max(section.image_px // patch, side) * patch}"
            )
    if isinstance(backbone, ConvNeXt):
        return
    if backbone.embed_dim % backbone.num_heads:
        raise ValueError(
            f"student.embed_dim={backbone.embed_dim} is not a multiple of "
            f"num_heads={backbone.num_heads}; use {backbone.num_heads * 64}"
        )
