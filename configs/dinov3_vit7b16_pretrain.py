"""DINOv3 ViT-7B/16, first stage: the reference's pretraining on LVD-1689M.

Command:   python -m dinojax.train --config=configs/dinov3_vit7b16_pretrain.py \
               --config.data.source='array_record:/data/lvd' --workdir=runs/vit7b16
Shrunk:    --config=configs/dinov3_vit7b16_pretrain.py:debug (no data needed)
Hardware:  the reference used 256 GPUs for 1,000,000 steps of 4,096 images. Weights are split over
           all devices (mesh.fsdp = -1).
Expected:  no score of this stage alone is published: Gram anchoring and high-resolution adaptation
           follow. Not yet run with this code.

The published run used a private mixture, a tenth of its steps homogeneous ImageNet-1k batches:
data.mixture, data.homogeneous_source and data.homogeneous_share say the same of yours. Its float8
products are left out.
"""

from typing import Any

import ml_collections

from dinojax.config import default_config
from dinojax.shrink import shrink

EPOCH = 1000
"""Steps; the reference's OFFICIAL_EPOCH_LENGTH."""


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in ("", "debug"):
        raise ValueError(f"variant {variant!r} is unknown; use none or 'debug'")
    config = default_config()
    config.student.arch = "vit7b16"
    config.student.drop_path_rate = 0.4
    config.student.pos_embed_rope_rescale_coords = 2.0
    config.student.remat = "full"

    _head(config.dino.head, hidden=8192, bottleneck=512, prototypes=262_144)
    _head(config.ibot.head, hidden=4096, bottleneck=384, prototypes=98_304)

    config.crops.global_crops_size = 256
    config.crops.local_crops_size = 112
    config.crops.horizontal_flips = False

    config.train.steps = 1000 * EPOCH
    config.train.batch_size = 4096
    config.train.draw_group_size = 16

    optim = config.optim
    _schedule(optim.lr, start=0.0, peak=5e-5, end=5e-5, warmup=100)  # 4e-4 after sqrt_wrt_1024
    _schedule(optim.weight_decay, start=0.04, peak=0.04, end=0.04)
    _schedule(optim.momentum, start=0.994, peak=0.994, end=0.994)
    _schedule(optim.teacher_temp, start=0.04, peak=0.07, end=0.07, warmup=100)
    optim.freeze_last_layer_steps = 5 * EPOCH
    optim.clip_grad = 30.0
    optim.layerwise_decay = 0.98
    optim.adamw_beta2 = 0.99

    config.mesh.data, config.mesh.fsdp = 1, -1
    config.data.source = "array_record:/data/lvd"
    config.data.holdout = 0.0001
    config.knn.every_steps = 50 * EPOCH
    config.checkpoint.every_steps = EPOCH
    config.checkpoint.keep_every_steps = 50 * EPOCH
    return shrink(config) if variant == "debug" else config


def _head(head: Any, *, hidden: int, bottleneck: int, prototypes: int) -> None:
    head.hidden_dim, head.bottleneck_dim, head.n_prototypes = hidden, bottleneck, prototypes


def _schedule(schedule: Any, *, start: float, peak: float, end: float, warmup: int = 0) -> None:
    schedule.family = "dinov3"
    schedule.start, schedule.peak, schedule.end = start, peak, end
    schedule.warmup_steps = warmup * EPOCH
