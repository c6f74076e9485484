"""ViT-S/16 and ViT-B/16 on one GPU of 24 GB: DINOv3's stages, and adaptation to your images.

Command:   python -m dinojax.train --config=configs/small_vit.py:vits16_pretrain \\
               --config.data.source=/data/imagenet/train --workdir=runs/vits16
           python -m dinojax.train --config=configs/small_vit.py:vits16_adapted \\
               --config.data.source=/data/mine --workdir=runs/vits16_mine
Stages:    vits16_ or vitb16_ and

           pretrain   from nothing, in runs/vits16
           gram       Gram anchoring; from runs/vits16 and its checkpoint of step 25,000
           high_res   at 384 and 512 px; from runs/vits16_gram
           distilled  ViT-S from runs/vitb16; ViT-B from runs/vitl16_in1k, which
                      configs/dinov3_vitl16_in1k.py trains
           adapted    a short run on other images; from runs/vits16

           --config.init.from, gram.teacher and distillation.teacher name other checkpoints.
Shrunk:    --config=configs/small_vit.py:vits16_gram:debug (no data and no run before needed)
Hardware:  one GPU of 24 GB, of which JAX takes 75 %.
Cost:      hours of an RTX 4090 at 50 to 30 % of its peak, an assumption (python -m dinojax.plan
           --topology=gpu:1xrtx4090), of ViT-S and ViT-B: pretrain 26 to 43 and 93 to 155, gram 5 to
           8 and 16 to 27, high_res 3 to 5 and 10 to 17, distilled 20 to 33 and 69 to 116,
           adapted 1 to 2 and 5 to 8.
Expected:  nothing: such models are published as distilled from much larger ones only. Not yet run
           at this size with this code.

Values without a source beside them are choices: the published recipes are for large models and
batches.
"""

from collections.abc import Callable
from typing import Any

import ml_collections

from dinojax.config import default_config
from dinojax.config.shrink import shrink
from dinojax.recipes import set_constant, set_schedule

EPOCH = 1250
"""Steps, as in the reference's recipe for ImageNet-1k; of 512 images half a pass."""


def get_config(variant: str = "vits16_pretrain") -> ml_collections.ConfigDict:
    name, *debug = variant.split(":")
    arch, _, stage = name.partition("_")
    if arch not in MICRO_BATCHES or stage not in STAGES or debug not in ([], ["debug"]):
        raise ValueError(
            f"variant {variant!r} is unknown; use one of {list(MICRO_BATCHES)}, '_' and one of "
            f"{list(STAGES)}, and :debug after it for a run of seconds"
        )
    config = default_config()
    config.student.arch = arch
    config.student.drop_path_rate = 0.1  # of DINO's ViT-S and ViT-B, arXiv:2104.14294
    config.student.pos_embed_rope_rescale_coords = 2.0  # of DINOv3's ViT-7B
    config.student.remat = "dots"
    config.train.batch_size = 512
    config.train.draw_group_size = 32
    config.train.micro_batches = MICRO_BATCHES[arch]
    config.train.prototype_chunk = 2048
    config.data.source = "/data/imagenet/train"
    config.data.holdout = 0.01
    config.knn.every_steps = 10 * EPOCH
    config.checkpoint.every_steps = EPOCH
    STAGES[stage](config, arch)
    return shrink(config) if debug else config


MICRO_BATCHES = {"vits16": 4, "vitb16": 16}
"""That 24 GB have room for (`dinojax.plan`)."""


def _pretrain(config: Any, arch: str) -> None:
    """Schedules of configs/dinov3_vitl16_in1k.py but for the learning rate."""
    config.train.steps = 100 * EPOCH
    optim = config.optim
    # 1.41e-3 after sqrt_wrt_1024; DINO's 5e-4 per 256 images (arXiv:2104.14294) would be 1e-3.
    optim.lr.peak = 5e-4
    optim.lr.warmup_steps = 10 * EPOCH
    optim.teacher_temp.warmup_steps = 30 * EPOCH
    optim.freeze_last_layer_steps = EPOCH
    config.checkpoint.keep_every_steps = 20 * EPOCH  # candidates for the Gram teacher


def _later_stage(config: Any, start: str) -> None:
    """Begin as the EMA teacher of another run. Constants are those of DINOv3's later stages."""
    config.init["from"] = start
    optim = config.optim
    set_constant(optim.weight_decay, 0.04)
    set_constant(optim.momentum, 0.999)
    set_constant(optim.teacher_temp, 0.07)
    optim.freeze_last_layer_steps = 0
    config.knn.every_steps = EPOCH


def _gram(config: Any, arch: str) -> None:
    """Weight, loss and twofold resolution of configs/dinov3_vit7b16_gram_anchor.py.

    Its teacher is that of a fifth of the steps, too.
    """
    _later_stage(config, f"runs/{arch}")
    config.train.steps = 10 * EPOCH
    set_schedule(config.optim.lr, start=0.0, peak=1e-4, end=1e-6, warmup_steps=EPOCH)
    config.crops.gram_teacher_crops_size = 448
    config.crops.gram_teacher_no_distortions = True
    set_constant(config.dino.local_loss_weight, 0.5)
    config.gram.use_loss = config.gram.img_level = True
    set_constant(config.gram.loss_weight, 2.0)
    config.gram.teacher = f"runs/{arch}/checkpoints/{20 * EPOCH}"


def _high_res(config: Any, arch: str) -> None:
    """As configs/dinov3_vit7b16_high_res_adapt.py: rising rate, Gram crops 1.5 times as large."""
    _later_stage(config, f"runs/{arch}_gram")
    config.train.steps = 4 * EPOCH
    config.train.batch_size = 256
    config.train.draw_group_size = 8
    config.train.micro_batches = 16
    set_schedule(config.optim.lr, start=0.0, peak=0.0, end=2e-5, cosine_steps=EPOCH)
    crops = config.crops
    crops.global_crops_size = (384, 512)
    crops.local_crops_size = (112, 168)
    crops.gram_teacher_crops_size = (576, 768)
    crops.global_local_crop_pairs_ratios = (0.5, 0.5)
    crops.gram_teacher_no_distortions = True
    config.data.canvas_px = 768
    set_constant(config.dino.local_loss_weight, 0.5)
    config.gram.use_loss = config.gram.img_level = True
    set_constant(config.gram.loss_weight, 1.5)
    config.gram.teacher = f"runs/{arch}_gram"


def _distilled(config: Any, arch: str) -> None:
    """From the next larger model, without stochastic depth, as in DINOv3's distillations."""
    config.student.drop_path_rate = 0.0
    teacher = config.distillation
    if arch == "vits16":
        teacher.teacher, teacher.backbone.arch = "runs/vitb16", "vitb16"
    else:
        teacher.teacher, teacher.backbone.arch = "runs/vitl16_in1k", "vitl16"
        teacher.backbone.n_storage_tokens = 0
        teacher.backbone.norm_layer = "layernorm"
        teacher.backbone.mask_k_bias = False
    config.train.steps = 50 * EPOCH
    optim = config.optim
    set_schedule(optim.lr, start=0.0, peak=5e-4, end=1e-6, warmup_steps=5 * EPOCH)
    set_constant(optim.weight_decay, 0.04)
    set_schedule(optim.momentum, start=0.994, peak=0.994, end=1.0)
    set_constant(optim.teacher_temp, 0.07)
    optim.freeze_last_layer_steps = 0


def _adapted(config: Any, arch: str) -> None:
    """A tenth of the learning rate of the pretraining, and a slow teacher."""
    _later_stage(config, f"runs/{arch}")
    config.train.steps = 5 * EPOCH
    set_schedule(config.optim.lr, start=0.0, peak=5e-5, end=1e-6, warmup_steps=EPOCH)
    config.data.source = "/data/mine"
    config.data.holdout = 0.1


STAGES: dict[str, Callable[[Any, str], None]] = {
    "pretrain": _pretrain,
    "gram": _gram,
    "high_res": _high_res,
    "distilled": _distilled,
    "adapted": _adapted,
}
