"""What recipes of one family have in common, in the words of ``configs/``."""

from typing import Any


# Any: ml_collections has no types, and what checkers infer for its attributes is wrong.
def set_schedule(
    schedule: Any,
    *,
    start: float,
    peak: float,
    end: float,
    warmup_steps: int = 0,
    cosine_steps: int | None = None,
) -> None:
    """Of the dinov3 family (its reference's ``schedules`` sections)."""
    schedule.family = "dinov3"
    schedule.start, schedule.peak, schedule.end = float(start), float(peak), float(end)
    schedule.warmup_steps, schedule.cosine_steps = warmup_steps, cosine_steps


def set_constant(schedule: Any, value: float) -> None:
    set_schedule(schedule, start=value, peak=value, end=value)


def set_dinov3_heads(dino_head: Any, ibot_head: Any) -> None:
    """Those of the 7B model and of all that are distilled from it."""
    for head, hidden, bottleneck, prototypes in (
        (dino_head, 8192, 512, 262_144),
        (ibot_head, 4096, 384, 98_304),
    ):
        head.hidden_dim, head.bottleneck_dim = hidden, bottleneck
        head.n_prototypes = prototypes


def set_vit7b16(config: Any) -> None:
    """Model, heads and optimizer of the three stages of the 7B model."""
    config.student.arch = "vit7b16"
    config.student.drop_path_rate = 0.4
    config.student.pos_embed_rope_rescale_coords = 2.0
    config.student.remat = "full"
    set_dinov3_heads(config.dino.head, config.ibot.head)
    config.crops.horizontal_flips = False
    set_constant(config.optim.weight_decay, 0.04)
    config.optim.clip_grad = 30.0
    config.optim.layerwise_decay = 0.98
    config.optim.adamw_beta2 = 0.99
    config.mesh.data, config.mesh.fsdp = 1, -1
    config.data.source = "array_record:/data/lvd"
    config.data.holdout = 0.0001


def set_dinov2_probe(config: Any, layout: str) -> None:
    """The linear probe of DINOv2 in an evaluation (arXiv:2304.07193, appendix B.3, and its code).

    Ten epochs of ImageNet-1k, eight devices of 128 images, each image cropped anew in each epoch,
    and the best probe chosen on what is scored.
    """
    config.images.image_px, config.images.resize_px = 224, 256
    config.records.layout = layout
    config.records.max_train = config.records.max_test = 0
    config.linear.batch_size = 1024
    config.linear.views = 10
    config.linear.select = "test"


def set_vitl16_distillation(config: Any) -> None:
    """All but the students of a distillation from the 7B model.

    Source: the reference's dinov3_vitl16_lvd1689m_distilled.yaml.
    """
    epoch = 1250  # steps; its OFFICIAL_EPOCH_LENGTH
    config.student.drop_path_rate = 0.0
    config.student.pos_embed_rope_rescale_coords = 2.0
    config.student.remat = "dots"
    set_dinov3_heads(config.dino.head, config.ibot.head)

    config.distillation.teacher = "runs/vit7b16_high_res"
    config.distillation.backbone.arch = "vit7b16"
    set_dinov3_heads(config.distillation.dino_head, config.distillation.ibot_head)

    config.crops.global_crops_size = 256
    config.crops.local_crops_size = 112
    config.crops.horizontal_flips = False

    config.train.steps = 20 * epoch
    config.train.batch_size = 1920
    config.train.draw_group_size = 16

    optim = config.optim
    # 5e-5 by sqrt_wrt_1024 of 296 x 6 images, to which the reference rounds 1,920 down.
    optim.scaling_rule = "none"
    lr = 5e-5 * 4 * (296 * 6 / 1024) ** 0.5
    set_schedule(optim.lr, start=0.0, peak=0.0, end=lr, cosine_steps=10 * epoch)
    set_constant(optim.weight_decay, 0.04)
    set_schedule(optim.momentum, start=0.994, peak=0.994, end=1.0)
    set_constant(optim.teacher_temp, 0.07)
    optim.freeze_last_layer_steps = 0
    optim.layerwise_decay = 0.99

    config.mesh.data, config.mesh.fsdp = 1, -1
    config.data.source = "array_record:/data/lvd"
    config.data.holdout = 0.0001
    config.knn.every_steps = 5 * epoch
    config.checkpoint.every_steps = 3 * epoch


def set_dinov2(config: Any) -> None:
    """What all recipes of DINOv2 have in common.

    Source: its ssl_default_config.yaml, whose schedules are the defaults here. It trains in
    float16 with a scaled loss, here in bfloat16.
    """
    config.dino.head.weight_norm = config.ibot.head.weight_norm = True
    config.ibot.mask_rule = "dinov2"
    config.optim.scaling_rule = "sqrt_wrt_1024_dinov2"


def set_dinov2_from_scratch(config: Any) -> None:
    """Of ViT-L/14 and ViT-g/14 trained for 625,000 steps of 3,072 images.

    Source: its vitl14.yaml and vitg14.yaml, which differ in the model and the images per GPU.
    """
    epoch = 1250  # steps; its OFFICIAL_EPOCH_LENGTH
    set_dinov2(config)
    config.student.ffn_layer = "swiglu"
    config.student.pos_embed_grid = 16
    config.student.drop_path_rate = 0.4
    config.dino.head.n_prototypes = config.ibot.head.n_prototypes = 131_072
    config.dino.head.bottleneck_dim = 384

    config.crops.global_crops_size = 224
    config.crops.local_crops_size = 98
    config.train.steps = 500 * epoch
    config.train.batch_size = 3072

    optim = config.optim
    optim.lr.peak = 2e-4  # 3.46e-4 after sqrt_wrt_1024_dinov2
    optim.lr.warmup_steps = 80 * epoch
    optim.weight_decay.end = 0.2
    optim.momentum.peak = 0.994
    optim.layerwise_decay = 1.0

    config.data.source = "/data/imagenet22k"
    config.data.holdout = 0.001
    config.knn.every_steps = 20 * epoch
    config.checkpoint.every_steps = 3 * epoch
