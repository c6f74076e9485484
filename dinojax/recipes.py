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
