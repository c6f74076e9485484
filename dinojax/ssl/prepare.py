"""From a batch of canvases to the inputs of a step, on the device."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dinojax.kernels.resize import resize_grid
from dinojax.mesh import split_batch
from dinojax.models.features import CropDraws
from dinojax.prng import key_for, slot_keys
from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.micro_batch import WHOLE_BATCH, MicroBatch
from dinojax.typing import Array, Float, Int, Key, Step
from dinojax.views.masks import (
    mask_counts,
    mask_weights,
    masked_indices,
    max_block_patches,
    sample_masks,
    sample_masks_up_to,
)
from dinojax.views.recipe import ViewRecipe
from dinojax.views.render import Crops, make_crops

GLOBAL_VIEWS = 2


def group_mask_counts(
    *,
    group_size: int,
    num_patches: int,
    sample_probability: float,
    ratio_min_max: tuple[float, float],
) -> np.ndarray:
    """Masked patches of each global crop of one group: the same multiset in every group."""
    return mask_counts(GLOBAL_VIEWS * group_size, num_patches, sample_probability, ratio_min_max)


def crop_keys(seed: int, step: Step, slots: int | Int[Array, " B"]) -> Key:
    """Keys of the choices behind the crops of these images of a step; an int means the first."""
    return slot_keys(key_for(seed, step, "crops"), slots)


MakeInputs = Callable[..., StepInputs]
"""``(batch, step[, micro_batch]) -> StepInputs``."""
MakeDraws = Callable[..., tuple[CropDraws | None, ...]]
"""``(step[, micro_batch])`` to the draws of its groups."""


def make_step_draws(
    draws: Callable[[Step, Int[Array, " G"]], tuple[CropDraws | None, ...]], groups: int
) -> MakeDraws:
    """What is random inside one student, of all groups of a step or of those of a micro-batch."""
    return lambda step, micro_batch=WHOLE_BATCH: draws(step, micro_batch.of(jnp.arange(groups)))


def with_draws(make_views: MakeInputs, make_draws: MakeDraws) -> MakeInputs:
    """Everything that enters a step: views, and one student's draws."""

    def inputs(batch: Any, step: Step, micro_batch: MicroBatch = WHOLE_BATCH) -> StepInputs:
        draws = make_draws(step, micro_batch)
        return make_views(batch, step, micro_batch)._replace(draws=draws)

    return inputs


def make_step_views(
    recipe: ViewRecipe,
    *,
    seed: int,
    groups: int,
    side: int,
    counts: np.ndarray,
    ratio_bounds: np.ndarray | None = None,
    circular_shift: bool,
    dtype: DTypeLike,
    hide_masked: bool = True,
    teacher_scale: float = 1.0,
) -> MakeInputs:
    """Crops and masks, keyed by (seed, step, slot); without draws.

    A batch holds ``canvas [B, H, W, C]`` and ``size [B, 2]``; its order is the slots'. Its first
    images alone get the crops that they have in the whole batch, and so do those of a micro-batch.

    Args:
        side: of the grid of patches of the global crops.
        counts: masked patches of each global crop of a group, or the most that there can be.
        ratio_bounds: for masks by DINOv2's rule (`views.masks.sample_masks_up_to`).
        hide_masked: whether the student is not shown the masked patches that it predicts.
        teacher_scale: the teacher sees crops with sides smaller by this factor.
    """
    block = max_block_patches(recipe.global_crops_size, recipe.global_crops_size // side)

    def views(batch: Any, step: Step, micro_batch: MicroBatch = WHOLE_BATCH) -> StepInputs:
        slots = micro_batch.of(jnp.arange(batch["canvas"].shape[0]))
        canvas, size = (micro_batch.of(batch[name]) for name in ("canvas", "size"))
        keys = split_batch(crop_keys(seed, step, slots))
        crops = make_crops(canvas, size, keys, recipe, dtype=dtype)
        crops = split_batch(crops, axis=1)

        def group_masks(key):
            total, how = int(counts.sum()), {"circular_shift": circular_shift}
            if ratio_bounds is None:
                masks, real = sample_masks(key, counts, (side, side), block, **how), None
            else:
                masks = sample_masks_up_to(key, ratio_bounds, (side, side), block, **how)
                real = jnp.arange(total) < masks.sum()
            indices = masked_indices(masks, total)
            weights = mask_weights(masks, indices)
            return masks, indices, weights if real is None else jnp.where(real, weights, 0), real

        group_slots = micro_batch.of(jnp.arange(groups))
        group_keys = split_batch(slot_keys(key_for(seed, step, "masks"), group_slots))
        masks, indices, weights, real = split_batch(jax.vmap(group_masks)(group_keys))
        return StepInputs(
            global_crops=crops.global_crops,
            local_crops=crops.local_crops,
            teacher_crops=_reduced(crops, teacher_scale),
            gram_crops=crops.gram_crops,
            masks=masks if hide_masked else None,
            mask_indices=indices,
            mask_weights=weights.astype(jnp.promote_types(dtype, jnp.float32)),
            mask_real=real,
        )

    return views


def _reduced(crops: Crops, scale: float) -> Float[Array, "V B s s C"] | None:
    """The teacher's own crops, if it has any: bilinear with antialiasing, of normalised pixels."""
    if scale == 1:
        return crops.teacher_crops
    whole = crops.global_crops if crops.teacher_crops is None else crops.teacher_crops
    side = round(whole.shape[2] / scale)
    return resize_grid(whole, (side, side), method="bilinear", antialias=True)
