"""DINOv3 ViT-7B/16, second stage: Gram anchoring, from 1.0 to 1.2 million steps.

Command:   python -m dinojax.train --config=configs/dinov3_vit7b16_gram_anchor.py \\
               --config.data.source='array_record:/data/lvd' --workdir=runs/vit7b16_gram
Before:    configs/dinov3_vit7b16_pretrain.py in runs/vit7b16, which keeps a checkpoint every 50,000
           steps; --config.init.from names another workdir, --config.gram.teacher another teacher
Shrunk:    --config=configs/dinov3_vit7b16_gram_anchor.py:debug (no data and no run before needed)
Hardware:  the reference used 256 GPUs.
Cost:      58,933 to 98,221 chip-hours of v5p at 50 to 30 % of its peak, an assumption: a sixth of
           what python -m dinojax.plan --topology=v5p:4x4x8 says, which counts all 1.2 million
           steps.
Expected:  no score of this stage alone is published. Not yet run with this code.

Source: the reference's dinov3_vit7b16_gram_anchor.yaml. It is launched in the workdir of the first
stage and finds the state there; here the stage has a workdir of its own and takes the whole state
over (init.resume), so that schedules over 1.2 million steps are the published ones: what is 0 or
1.0 for 1,000 epochs is what the first stage has been. The Gram teacher is left to the command line
there; the one set here is early, as section 4 of arXiv:2508.10104 asks for.
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
    config.init["from"] = "runs/vit7b16"
    config.init.resume = True

    config.crops.global_crops_size = 256
    config.crops.local_crops_size = 112
    config.crops.gram_teacher_crops_size = 512
    config.crops.gram_teacher_no_distortions = True

    config.train.steps = 1200 * EPOCH
    config.train.batch_size = 4096
    config.train.draw_group_size = 16

    optim, first_stage = config.optim, 1000 * EPOCH
    # 2.4e-4 after sqrt_wrt_1024
    set_schedule(optim.lr, start=0.0, peak=3e-5, end=3e-5, warmup_steps=100 * EPOCH)
    set_constant(optim.momentum, 0.999)
    set_schedule(optim.teacher_temp, start=0.04, peak=0.07, end=0.07, warmup_steps=100 * EPOCH)
    optim.freeze_last_layer_steps = 5 * EPOCH
    changes = {"warmup_steps": first_stage, "cosine_steps": EPOCH}
    set_schedule(config.dino.local_loss_weight, start=1.0, peak=1.0, end=0.5, **changes)

    gram = config.gram
    gram.use_loss = gram.img_level = gram.compute_stats = True
    set_schedule(gram.loss_weight, start=0.0, peak=0.0, end=2.0, **changes)
    gram.teacher = "runs/vit7b16/checkpoints/200000"
    gram.update_every_steps = 10 * EPOCH
    gram.first_update_step = first_stage + 10 * EPOCH
    gram.max_updates = 3

    config.knn.every_steps = 50 * EPOCH
    config.checkpoint.every_steps = EPOCH
    config.checkpoint.keep_every_steps = 50 * EPOCH
    return shrink(config) if variant == "debug" else config
