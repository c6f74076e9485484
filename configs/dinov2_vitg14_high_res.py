"""DINOv2 ViT-g/14, second stage: 10,000 steps at 518 px.

Command:   python -m dinojax.train --config=configs/dinov2_vitg14_high_res.py \
               --config.data.source='array_record:/data/lvd142m' \
               --workdir=runs/dinov2_vitg14_high_res
Before:    configs/dinov2_vitg14.py in runs/dinov2_vitg14; --config.init.from names another run
Shrunk:    --config=configs/dinov2_vitg14_high_res.py:debug (no data and no run before needed)
Hardware:  the reference's is not published apart from that of the first stage.
Cost:      809 to 1,349 chip-hours of v5p at 50 to 30 % of its peak, an assumption
           (python -m dinojax.plan --topology=v5p:4x4x4).
Expected:  the released ViT-g/14: 83.5 kNN, 86.5 linear on ImageNet-1k, 49.0 mIoU linear on ADE20k
           (arXiv:2304.07193, tables 4 and 10), if trained on LVD-142M. Not yet reproduced with this
           code.

Source: arXiv:2304.07193, section 4 and appendix B.2: 518 px, 10,000 steps, all schedules compressed
into them, a lower learning rate. There is no code for it. Not published are that rate and the size
of the local crops; both are chosen here. The position table starts as the one of the first
stage, resampled to 37 x 37 patches.
"""

import ml_collections

from dinojax.config import default_config
from dinojax.config.shrink import shrink
from dinojax.recipes import set_dinov2_from_scratch

STEPS = 10_000


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in ("", "debug"):
        raise ValueError(f"variant {variant!r} is unknown; use none or 'debug'")
    config = default_config()
    set_dinov2_from_scratch(config)
    config.init["from"] = "runs/dinov2_vitg14"
    config.student.arch = "vitg14"
    config.student.pos_embed_grid = 37
    config.student.remat = "full"
    config.crops.global_crops_size = 518
    config.data.canvas_px = 518
    config.train.draw_group_size = 12

    optim, factor = config.optim, config.train.steps / STEPS
    config.train.steps = STEPS
    # Lower by as much as DINOv3's high-resolution stage is below its pretraining (7.07e-5, 4e-4).
    optim.lr.peak = 3.5e-5
    for schedule in (optim.lr, optim.teacher_temp):
        schedule.warmup_steps = round(schedule.warmup_steps / factor)
    optim.freeze_last_layer_steps = round(optim.freeze_last_layer_steps / factor)

    config.knn.every_steps = 2_500
    config.checkpoint.every_steps = 500
    return shrink(config) if variant == "debug" else config
