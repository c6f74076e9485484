"""DINOv3 ViT-S, S+, B and L distilled at once from one forward pass of the ViT-7B/16.

Command:   python -m dinojax.train --config=configs/dinov3_multi_distilled.py \\
               --config.data.source='array_record:/data/lvd' --workdir=runs/multi_distilled
Before:    configs/dinov3_vit7b16_high_res_adapt.py in runs/vit7b16_high_res
Shrunk:    --config=configs/dinov3_multi_distilled.py:debug (no data and no teacher needed)
Hardware:  the reference used 296 GPUs, 48, 48, 80 and 120 for the four students, for 25,000 steps
           of 1,920 images. Here all students lie on the whole mesh, of up to 120 devices.
On TPUs:   --config.train.draw_group_size=15 makes 128 groups of the 1,920 images instead of 120.
Cost:      287 to 478 chip-hours of v6e at 50 to 30 % of its peak, an assumption
           (python -m dinojax.plan --topology=v6e:8x8 --config.train.draw_group_size=15).
Expected:  the released models; their scores are those of arXiv:2508.10104. Not yet run with this
           code.

Source: students and batch are those of the reference's multi-distillation; only the file of ViT-L
is published (dinov3_vitl16_lvd1689m_distilled.yaml), and its schedules are used for all four.
"""

import ml_collections

from dinojax.config import default_config
from dinojax.config.shrink import shrink
from dinojax.recipes import set_vitl16_distillation

STUDENTS = ("vits16", "vits16plus", "vitb16", "vitl16")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in ("", "debug"):
        raise ValueError(f"variant {variant!r} is unknown; use none or 'debug'")
    config = default_config()
    set_vitl16_distillation(config)
    config.distillation.students = tuple((name, (("student.arch", name),)) for name in STUDENTS)
    return shrink(config) if variant == "debug" else config
