"""A DINOv3 run for two CPU cores: a few minutes on the embedded `scenes`, no download.

Command:  python -m dinojax.train --config=configs/quickstart.py --workdir=runs/quickstart
Own data: add --config.data.source=FOLDER_OR_TAR; for images of about 32 px (CIFAR) use
          --config=configs/quickstart.py:32px
Distil:   quickstart.py:distilled and quickstart.py:features train a student of a tenth of the size
          from runs/quickstart, by its heads and by its features; quickstart.py:small trains the
          same student alone (docs/distillation.md)

What differs from the published recipes makes a small network learn in a thousand steps of 32
images: weights that start at about 1 / sqrt(width) and no LayerScale to wake up, few prototypes,
and a sharp teacher, whose targets say something from the first step on.
"""

from typing import Any

import ml_collections

from dinojax.config import default_config

VARIANTS = ("64px", "32px", "small", "distilled", "features")


def get_config(variant: str = "64px") -> ml_collections.ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"quickstart:{variant} is unknown; use one of {VARIANTS}")
    small = variant == "32px"
    config = default_config()
    config.student.arch = "vits16"
    config.student.embed_dim = 128
    config.student.depth = 4
    config.student.num_heads = 4
    config.student.patch_size = 4 if small else 8
    config.student.n_storage_tokens = 1
    config.student.drop_path_rate = 0.0
    config.student.layerscale = 1.0
    config.student.init_std = 0.08

    for head in (config.dino.head, config.ibot.head):
        head.n_prototypes = 64
        head.hidden_dim = 256
        head.bottleneck_dim = 64

    config.crops.global_crops_size = 32 if small else 48
    config.crops.local_crops_size = 16 if small else 24
    config.crops.local_crops_number = 4

    config.train.steps = 640
    config.train.batch_size = 32
    config.train.draw_group_size = 32
    config.train.precision = "float32"

    optim = config.optim
    optim.scaling_rule = "none"
    optim.lr.peak = 1e-3
    optim.lr.warmup_steps = 10
    optim.freeze_last_layer_steps = 0
    optim.weight_decay.end = 0.1
    optim.momentum.peak = 0.98
    optim.teacher_temp.start = 0.004
    optim.teacher_temp.peak = optim.teacher_temp.end = 0.02
    optim.teacher_temp.warmup_steps = 480
    optim.layerwise_decay = 1.0
    optim.patch_embed_lr_mult = 1.0

    config.data.canvas_px = 32 if small else 64
    config.data.scenes.num_images = 4096
    config.data.scenes.image_px = 64
    config.knn.every_steps = 160
    config.knn.image_px = config.data.canvas_px
    config.knn.max_bank = 2000
    config.knn.max_queries = 2000
    config.checkpoint.every_steps = 320
    if small:
        return _for_tiny_photographs(config)
    if variant in ("distilled", "features"):
        _distil(config)
    if variant == "features":
        config.distillation.objective = "features"
        config.crops.local_crops_number = 0
    elif variant == "distilled":
        config.distillation.dino_head.update(config.dino.head)
        config.distillation.ibot_head.update(config.ibot.head)
    return config if variant == "64px" else _with_small_student(config)


def _distil(config: Any) -> None:
    """From this recipe's own network, whose targets are sharp from the start."""
    config.distillation.teacher = "runs/quickstart"
    for key in ("arch", "embed_dim", "depth", "num_heads", "patch_size", "n_storage_tokens"):
        config.distillation.backbone[key] = config.student[key]
    config.distillation.backbone.layerscale = config.student.layerscale
    config.optim.teacher_temp.start = config.optim.teacher_temp.peak


def _with_small_student(config: Any) -> Any:
    config.student.embed_dim, config.student.depth, config.student.num_heads = 64, 2, 2
    config.student.init_std = 0.12
    config.train.steps = 320
    config.optim.teacher_temp.warmup_steps = 240
    return config


def _for_tiny_photographs(config: Any) -> Any:
    """Larger local crops, milder colours, more prototypes: see docs/real_images.md."""
    config.crops.local_crops_scale = (0.15, 0.5)
    config.crops.jitter_strengths = (0.3, 0.3, 0.1, 0.03)
    config.crops.grey_probability = 0.0
    config.dino.head.n_prototypes = config.ibot.head.n_prototypes = 512
    config.train.steps = 1200
    config.optim.lr.peak = 1.5e-3
    config.optim.lr.warmup_steps = 100
    config.optim.teacher_temp.warmup_steps = 900
    return config
