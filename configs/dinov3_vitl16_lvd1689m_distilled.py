"""DINOv3 ViT-L/16 distilled from the ViT-7B/16.

Command:   python -m dinojax.train --config=configs/dinov3_vitl16_lvd1689m_distilled.py \\
               --config.data.source='array_record:/data/lvd' --workdir=runs/vitl16_distilled
Before:    configs/dinov3_vit7b16_high_res_adapt.py in runs/vit7b16_high_res;
           --config.distillation.teacher names another checkpoint
Shrunk:    --config=configs/dinov3_vitl16_lvd1689m_distilled.py:debug (no data and no teacher
           needed)
Hardware:  the reference gave this student 120 of 296 GPUs, beside three others
           (configs/dinov3_multi_distilled.py), for 25,000 steps of 1,920 images.
On TPUs:   --config.train.draw_group_size=15 makes 128 groups of the 1,920 images instead of 120.
Cost:      259 to 432 chip-hours of v6e at 50 to 30 % of its peak, an assumption
           (python -m dinojax.plan --topology=v6e:8x8 --config.train.draw_group_size=15).
Expected:  the released ViT-L/16; its scores are those of arXiv:2508.10104. Not yet run with this
           code.

Source: the reference's dinov3_vitl16_lvd1689m_distilled.yaml. Its student starts from an earlier
run that is not published; --config.init.from takes one. Its Gram crops are made and not used, so
there are none here.
"""

import ml_collections

from dinojax.config import default_config
from dinojax.config.shrink import shrink
from dinojax.recipes import set_vitl16_distillation


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in ("", "debug"):
        raise ValueError(f"variant {variant!r} is unknown; use none or 'debug'")
    config = default_config()
    set_vitl16_distillation(config)
    config.student.arch = "vitl16"
    return shrink(config) if variant == "debug" else config
