"""DINOv3 ViT-7B/16, third stage: high-resolution adaptation at five pairs of crop sizes.

Command:   python -m dinojax.train --config=configs/dinov3_vit7b16_high_res_adapt.py \\
               --config.data.source='array_record:/data/lvd' --workdir=runs/vit7b16_high_res
Before:    configs/dinov3_vit7b16_gram_anchor.py in runs/vit7b16_gram; --config.init.from and
           --config.gram.teacher name others
Shrunk:    --config=configs/dinov3_vit7b16_high_res_adapt.py:debug (no data and no run before
           needed)
Hardware:  the reference used 256 GPUs for 30,000 steps of 2,048 images.
Cost:      23,927 to 39,879 chip-hours of v5p at 50 to 30 % of its peak, an assumption
           (python -m dinojax.plan --topology=v5p:4x4x8).
Expected:  the released teacher; its scores are those of arXiv:2508.10104. Not yet run with this
           code.

Source: the reference's dinov3_vit7b16_high_res_adapt.yaml, which takes both checkpoints from the
command line. Student, EMA and Gram teacher all start as the EMA teacher of the second stage.
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
    config.init["from"] = "runs/vit7b16_gram"

    crops = config.crops
    crops.global_crops_size = (512, 768, 768, 768, 768)
    crops.local_crops_size = (112, 112, 168, 224, 336)
    crops.gram_teacher_crops_size = (768, 1152, 1152, 1152, 1152)
    crops.global_local_crop_pairs_ratios = (0.3, 0.3, 0.3, 0.05, 0.05)
    crops.gram_teacher_no_distortions = True
    config.data.canvas_px = 1152

    config.train.steps = 30 * EPOCH
    config.train.batch_size = 2048
    config.train.draw_group_size = 8
    config.dino.koleo_group_size = 16

    optim = config.optim
    # Up to 7.07e-5 after sqrt_wrt_1024, along a cosine, and then constant.
    set_schedule(optim.lr, start=0.0, peak=0.0, end=1.25e-5, cosine_steps=10 * EPOCH)
    set_constant(optim.momentum, 0.999)
    set_constant(optim.teacher_temp, 0.07)
    optim.freeze_last_layer_steps = 0
    set_constant(config.dino.local_loss_weight, 0.5)

    gram = config.gram
    gram.use_loss = gram.img_level = gram.compute_stats = True
    set_constant(gram.loss_weight, 1.5)
    gram.teacher = "runs/vit7b16_gram"

    config.knn.every_steps = 10 * EPOCH
    config.checkpoint.every_steps = 250
    return shrink(config) if variant == "debug" else config
