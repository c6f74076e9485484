"""DINOv3 ViT-7B/16, first stage: the reference's pretraining on LVD-1689M.

Command:   python -m dinojax.train --config=configs/dinov3_vit7b16_pretrain.py \
               --config.data.source='array_record:/data/lvd' --workdir=runs/vit7b16
Shrunk:    --config=configs/dinov3_vit7b16_pretrain.py:debug (no data needed)
Hardware:  the reference used 256 GPUs for 1,000,000 steps of 4,096 images. Weights are split over
           all devices (mesh.fsdp = -1).
Cost:      150,779 to 251,299 chip-hours of v5p at 50 to 30 % of its peak, an assumption
           (python -m dinojax.plan --topology=v5p:4x4x8); the reference used 61,440 hours of H100
           with float8 products (arXiv:2508.10104).
Expected:  no score of this stage alone is published: Gram anchoring and high-resolution adaptation
           follow. Not yet run with this code.

The published run used a private mixture, a tenth of its steps homogeneous ImageNet-1k batches:
data.mixture, data.homogeneous_source and data.homogeneous_share say the same of yours. Its float8
products are left out.
"""

import ml_collections

from dinojax.config import default_config
from dinojax.config.shrink import shrink
from dinojax.recipes import set_constant, set_schedule, set_vit7b16

EPOCH = 1000
"""Steps; the reference's OFFICIAL_EPOCH_LENGTH."""


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in ("", "debug"):
        raise ValueError(f"variant {variant!r} is unknown; use none or 'debug'")
    config = default_config()
    set_vit7b16(config)
    config.crops.global_crops_size = 256
    config.crops.local_crops_size = 112

    config.train.steps = 1000 * EPOCH
    config.train.batch_size = 4096
    config.train.draw_group_size = 16

    optim, warmup = config.optim, 100 * EPOCH
    # 4e-4 after sqrt_wrt_1024
    set_schedule(optim.lr, start=0.0, peak=5e-5, end=5e-5, warmup_steps=warmup)
    set_constant(optim.momentum, 0.994)
    set_schedule(optim.teacher_temp, start=0.04, peak=0.07, end=0.07, warmup_steps=warmup)
    optim.freeze_last_layer_steps = 5 * EPOCH

    config.knn.every_steps = 50 * EPOCH
    config.checkpoint.every_steps = EPOCH
    config.checkpoint.keep_every_steps = 50 * EPOCH
    return shrink(config) if variant == "debug" else config
