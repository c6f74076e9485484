"""DINOv3 ConvNeXt distilled from a ViT/16: tiny, small, base or large.

Command:   python -m dinojax.train --config=configs/dinov3_convnext_distilled.py:tiny \\
               --config.data.source=/data/imagenet/train --workdir=runs/convnext_tiny
Before:    configs/dinov3_vitl16_in1k.py in runs/vitl16_in1k; --config.distillation.teacher names
           another checkpoint, distillation.backbone and its heads another model
Shrunk:    --config=configs/dinov3_convnext_distilled.py:debug (no data and no teacher needed)
Hardware:  128 GPUs, for 625,000 steps of 4,096 images.
Cost:      2,582 to 4,303 (tiny), 4,032 to 6,720 (small), 6,321 to 10,535 (base) and 12,842 to
           21,403 (large) chip-hours of v5p at 50 to 30 % of its peak, an assumption
           (python -m dinojax.plan --topology=v5p:4x4x8).
Expected:  nothing: the released models have the 7B model as teacher, and their recipe is not
           published. Not yet run with this code.

Source: the reference's distillation_convnext files, whose own global batch of 32 is for a test; a
comment there names 4,096 on 16 nodes. A ConvNeXt has a stride of 32, so the teacher sees crops of
half the side (crops.teacher_to_student_resolution_scale) and both have the same grid of patches.
The reference says so and looks the key up in the wrong place: its teacher sees the whole crops, and
its targets belong to other places.
"""

import ml_collections

from dinojax.config import default_config
from dinojax.config.shrink import shrink
from dinojax.recipes import set_schedule

EPOCH = 1250
"""Steps; the reference's OFFICIAL_EPOCH_LENGTH."""
PEAK_LR = {"tiny": 2e-4, "small": 2e-4, "base": 1e-4, "large": 1e-4}


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    if variant not in (*PEAK_LR, "debug"):
        raise ValueError(f"variant {variant!r} is unknown; use one of {[*PEAK_LR, 'debug']}")
    size = "tiny" if variant == "debug" else variant
    config = default_config()
    config.student.arch = f"convnext_{size}"
    config.student.drop_path_rate = 0.0
    config.student.remat = "dots"

    teacher = config.distillation
    teacher.teacher = "runs/vitl16_in1k"
    teacher.backbone.arch = "vitl16"
    teacher.backbone.n_storage_tokens = 0
    teacher.backbone.norm_layer = "layernorm"
    teacher.backbone.mask_k_bias = False

    config.crops.global_crops_size = 512
    config.crops.local_crops_size = 224
    config.crops.teacher_to_student_resolution_scale = 2.0

    config.train.steps = 500 * EPOCH
    config.train.batch_size = 4096
    config.train.draw_group_size = 32

    optim, steps = config.optim, config.train.steps
    set_schedule(optim.lr, start=1e-6, peak=PEAK_LR[size], end=1e-6, warmup_steps=80 * EPOCH)
    decay = 0.02 if size == "base" else 0.04
    set_schedule(optim.weight_decay, start=decay, peak=0.2, end=0.2, warmup_steps=steps)
    set_schedule(optim.momentum, start=0.994, peak=1.0, end=1.0, warmup_steps=steps)
    set_schedule(optim.teacher_temp, start=0.04, peak=0.07, end=0.07, warmup_steps=120 * EPOCH)
    optim.freeze_last_layer_steps = EPOCH
    optim.layerwise_decay = 1.0

    config.data.source = "/data/imagenet/train"
    config.data.holdout = 0.01
    config.knn.every_steps = 50 * EPOCH
    config.checkpoint.every_steps = 3 * EPOCH
    return shrink(config) if variant == "debug" else config
