"""From a configuration to what a step sees: crops, masks and random draws."""

from typing import Any

import numpy as np

from dinojax.build.model import build_backbone
from dinojax.config import Config
from dinojax.models.convnext import ConvNeXt
from dinojax.precision import get_precision
from dinojax.ssl.inputs import DrawRates, make_draws, make_gain_draws
from dinojax.ssl.prepare import (
    GLOBAL_VIEWS,
    MakeDraws,
    MakeInputs,
    group_mask_counts,
    make_step_draws,
    make_step_views,
    with_draws,
)
from dinojax.views.masks import mask_ratio_bounds
from dinojax.views.recipe import ViewRecipe, without_rgb_operations


def build_views(config: Config) -> ViewRecipe:
    """The views of a configuration of one resolution (`dinojax.config.resolutions`).

    Without operations on colours that the images do not have.
    """
    return config.crops if config.student.in_chans == 3 else without_rgb_operations(config.crops)


def draw_group_size(config: Config) -> int:
    """Images per group of shared draws."""
    return config.train.draw_group_size or config.train.batch_size


def build_inputs(config: Config) -> MakeInputs:
    """The device-side half of the data path: crops, masks and draws of a step."""
    return with_draws(build_step_views(config), build_draws(config))


def build_step_views(config: Config) -> MakeInputs:
    """Crops and masks of a step, which several students have in common."""
    return make_step_views(
        build_views(config),
        seed=config.train.seed,
        groups=config.train.batch_size // draw_group_size(config),
        side=predicted_grid(config),
        counts=build_mask_counts(config),
        ratio_bounds=build_ratio_bounds(config) if config.ibot.mask_rule == "dinov2" else None,
        circular_shift=config.ibot.mask_random_circular_shift,
        dtype=get_precision(config.train.precision).param,
        hide_masked=config.distillation.teacher is None,
        teacher_scale=config.crops.teacher_to_student_resolution_scale,
    )


def build_draws(config: Config) -> MakeDraws:
    """Stochastic depth and RoPE augmentation of the student."""
    backbone = build_backbone(config, get_precision(config.train.precision))
    group = draw_group_size(config)
    crops = {"global": GLOBAL_VIEWS, "local": build_views(config).local_crops_number}
    sizes: dict[str, Any] = {
        "seed": config.train.seed,
        "depth": backbone.depth,
        "rows": {name: number * group for name, number in crops.items() if number},
    }
    if isinstance(backbone, ConvNeXt):
        draws = make_gain_draws(config.student.drop_path_rate, **sizes)
    else:
        draws = make_draws(build_draw_rates(config), **sizes)
    return make_step_draws(draws, config.train.batch_size // group)


def build_draw_rates(config: Config) -> DrawRates:
    student = config.student
    return DrawRates(
        drop_path_rate=student.drop_path_rate,
        shift_coords=student.pos_embed_rope_shift_coords,
        jitter_coords=student.pos_embed_rope_jitter_coords,
        rescale_coords=student.pos_embed_rope_rescale_coords,
    )


def predicted_grid(config: Config) -> int:
    """Patches along a side of the global crops, which teacher and student have in common."""
    patch = build_backbone(config, get_precision(config.train.precision)).stride
    return build_views(config).global_crops_size // patch


def build_mask_counts(config: Config) -> np.ndarray:
    """Masked patches of each global crop of one group, or by DINOv2's rule the most of them."""
    return group_mask_counts(
        group_size=draw_group_size(config),
        num_patches=predicted_grid(config) ** 2,
        sample_probability=config.ibot.mask_sample_probability,
        ratio_min_max=config.ibot.mask_ratio_min_max,
    )


def build_ratio_bounds(config: Config) -> np.ndarray:
    """Least and greatest share of masked patches of each global crop of one group (DINOv2)."""
    crops = GLOBAL_VIEWS * draw_group_size(config)
    return mask_ratio_bounds(
        crops, config.ibot.mask_sample_probability, config.ibot.mask_ratio_min_max
    )
