"""``--config=configs/x.py:debug``: any recipe as a run of seconds, through the same code."""

from typing import Any

import ml_collections

from dinojax.config.parse import to_config_dict
from dinojax.config.stages import RecoveryConfig
from dinojax.models.convnext import ConvNeXt
from dinojax.models.presets import get_preset


# Any: ml_collections has no types, and what checkers infer for its attributes is wrong.
def shrink(config: Any) -> ml_collections.ConfigDict:
    """The recipe at toy size: 2 layers, tiny heads and crops, 3 steps on `scenes`, in float32.

    What makes the recipe special (schedule families, objective options, regularisers) stays.
    """
    preset = get_preset(config.student.arch)
    if preset.backbone is ConvNeXt:
        config.student.depths, config.student.dims = (1, 1, 1, 1), (8, 16, 32, 64)
        patch_px = 16
    else:
        config.student.embed_dim = 64
        config.student.depth = 2
        config.student.num_heads = 2
        patch_px = config.student.patch_size or preset.model["patch_size"]
    for head in (config.dino.head, config.ibot.head):
        head.n_prototypes, head.hidden_dim, head.bottleneck_dim = 64, 64, 16
    _shrink_crops(config, patch_px)
    config.train.steps = 3
    config.train.batch_size = 8
    config.train.micro_batches = min(config.train.micro_batches, 2)
    config.train.draw_group_size = config.train.batch_size // config.train.micro_batches
    config.train.precision = "float32"
    config.train.log_every_steps = 1
    config.train.rollback_after = 0  # as far as three checkpoints of 3 steps do not reach back
    schedules = [config.optim.lr, config.optim.weight_decay, config.optim.momentum]
    for schedule in [
        *schedules,
        config.optim.teacher_temp,
        config.dino.local_loss_weight,
        config.gram.loss_weight,
    ]:
        schedule.warmup_steps = min(schedule.warmup_steps, 1)
        if schedule.cosine_steps is not None:
            schedule.cosine_steps = min(schedule.cosine_steps, 1)
    config.optim.freeze_last_layer_steps = min(config.optim.freeze_last_layer_steps, 1)
    config.data.source = "scenes"
    config.data.scenes.num_images = 64
    config.knn.every_steps = 3
    config.knn.image_px = 4 * patch_px
    config.knn.batch_size = 32
    config.panels.every_steps = min(config.panels.every_steps, 3)
    config.panels.images, config.panels.image_px = 1, 4 * patch_px
    config.checkpoint.every_steps = 3
    _shrink_stages(config)
    return config


def _shrink_crops(config: Any, patch_px: int) -> None:
    """Of several resolutions two are left."""
    crops, side = config.crops, 4 * patch_px
    several = isinstance(crops.global_crops_size, tuple | list)
    crops.global_crops_size = (side, side + patch_px) if several else side
    crops.local_crops_size = 2 * patch_px
    crops.local_crops_number = 2
    if several:
        crops.global_local_crop_pairs_ratios = (0.5, 0.5)
    if crops.gram_teacher_crops_size is not None:
        crops.gram_teacher_crops_size = side + 2 * patch_px
    config.data.canvas_px = max(64, side + 2 * patch_px)


def _shrink_stages(config: Any) -> None:
    """No run before: teachers have learnt nothing, and are small too."""
    config.init["from"], config.init.resume = None, False
    config.recovery = to_config_dict(RecoveryConfig())
    gram, distillation = config.gram, config.distillation
    if gram.use_loss and gram.teacher != "ema":
        gram.teacher, gram.load_ema_step = None, 0
    if gram.update_every_steps is not None:
        gram.update_every_steps, gram.first_update_step = 2, 0
    if config.dino.koleo_group_size is not None:
        config.dino.koleo_group_size = config.train.draw_group_size
    if distillation.teacher is None:
        return
    distillation.teacher = "random"
    distillation.backbone.embed_dim = 64
    distillation.backbone.depth = distillation.backbone.num_heads = 2
    if distillation.objective == "features":
        config.crops.local_crops_number = 0
        if distillation.matching.projection_hidden_dim is not None:
            distillation.matching.projection_hidden_dim = 64
    else:
        distillation.dino_head.update(config.dino.head)
        distillation.ibot_head.update(config.ibot.head)
    distillation.students = tuple(
        (name, tuple(pair for pair in own if pair[0] == "student.arch"))
        for name, own in distillation.students
    )
