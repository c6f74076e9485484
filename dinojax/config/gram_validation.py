"""Keys of Gram anchoring: those that contradict each other, and those left over."""

from dataclasses import fields

from dinojax.build.gram import AUTO, EMA
from dinojax.build.inputs import build_views
from dinojax.config import Config
from dinojax.config.stages import GramConfig
from dinojax.kernels.resize import METHODS
from dinojax.ssl.gram import TOKENS


def check_gram(config: Config, patch_size: int) -> None:
    """Of a configuration of one resolution.

    Raises:
        ValueError: names the key, its value, the rule and a value that works.
    """
    gram, size = config.gram, build_views(config).gram_teacher_crops_size
    if not gram.use_loss:
        for name, absent in (
            ("gram_teacher_crops_size", None),
            ("gram_teacher_no_distortions", False),
        ):
            value = getattr(config.crops, name)
            if value != absent:
                raise ValueError(
                    f"crops.{name}={value} is for Gram anchoring, and gram.use_loss=False; set it "
                    f"to {absent}, or gram.use_loss to True"
                )
        if gram != GramConfig():
            odd = [f.name for f in fields(gram) if getattr(gram, f.name) != f.default]
            raise ValueError(
                f"gram.{odd[0]}={getattr(gram, odd[0])!r} is for Gram anchoring, and gram.use_loss="
                "False; set it to its default, or gram.use_loss to True"
            )
        return
    _check_teacher(gram, size, config.train.steps)
    check_auto_teacher(config)
    _check_options(gram)
    _check_statistics(config)
    if size is not None and (size < patch_size or size % patch_size):
        below = max(size // patch_size * patch_size, patch_size)
        raise ValueError(
            f"crops.gram_teacher_crops_size={size} is not a multiple of patch_size={patch_size}; "
            f"use {below} or {below + patch_size}"
        )


def _check_teacher(gram: GramConfig, size: int | None, steps: int) -> None:
    updates = gram.load_ema_step is not None or gram.update_every_steps is not None
    if gram.teacher is None and gram.load_ema_step is None:
        raise ValueError(
            "gram.use_loss=True has no Gram teacher; set gram.teacher to a checkpoint or to 'ema', "
            "or gram.load_ema_step to the step of the EMA teacher that it is to copy, e.g. to 0"
        )
    if gram.teacher == EMA and (updates or size is not None):
        raise ValueError(
            "gram.teacher='ema' is the EMA teacher itself, which sees the global crops and is not "
            "copied; set crops.gram_teacher_crops_size, gram.load_ema_step and "
            "gram.update_every_steps to None"
        )
    for name in ("load_ema_step", "first_update_step"):
        value = getattr(gram, name) or 0
        if not 0 <= value < steps:
            raise ValueError(f"gram.{name}={value} must lie in 0..{steps - 1}: train.steps={steps}")
    for name in ("update_every_steps", "max_updates"):
        value = getattr(gram, name)
        if value is not None and value < 1:
            raise ValueError(f"gram.{name}={value} must be at least 1, or None")
    if gram.update_every_steps is None and (gram.first_update_step or gram.max_updates):
        raise ValueError(
            f"gram.first_update_step={gram.first_update_step} and max_updates={gram.max_updates} "
            "are for gram.update_every_steps=None; set it, e.g. to 10000, or them to 0 and None"
        )


def check_auto_teacher(config: Config) -> None:
    """Raises ValueError: there is no earlier run to choose the Gram teacher from."""
    if config.gram.teacher == AUTO and config.init.from_ is None:
        raise ValueError(
            "gram.teacher='auto' is a snapshot of the run that this one goes on from, and "
            "init.from=None; set init.from to its workdir, or gram.teacher to a checkpoint"
        )


def _check_options(gram: GramConfig) -> None:
    for name, value, known in (
        ("tokens_used", gram.tokens_used, TOKENS),
        ("global_teacher_resize_method", gram.global_teacher_resize_method, METHODS),
    ):
        if value not in known:
            raise ValueError(f"gram.{name}={value!r} is unknown; use one of {known}")
    if gram.img_level and gram.tokens_used != "all":
        raise ValueError(
            f"gram.tokens_used={gram.tokens_used!r} differ in number from image to image; set "
            "gram.img_level to False"
        )
    if gram.remove_neg and gram.remove_only_teacher_neg:
        raise ValueError(
            "gram.remove_neg and gram.remove_only_teacher_neg exclude each other; set one to False"
        )


def _check_statistics(config: Config) -> None:
    """Masked and unmasked patches are as many in each group by DINOv3's rule alone."""
    gram = config.gram
    if config.ibot.mask_rule != "dinov2" or (gram.tokens_used == "all" and not gram.compute_stats):
        return
    key = "compute_stats=True" if gram.compute_stats else f"tokens_used={gram.tokens_used!r}"
    raise ValueError(
        f"gram.{key} needs as many masked patches in every step, and ibot.mask_rule='dinov2' draws "
        "their number; set gram.compute_stats=False and gram.tokens_used='all', or "
        "ibot.mask_rule='dinov3'"
    )
