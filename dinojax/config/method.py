"""The keys of losses and optimizer: ``dino``, ``ibot``, ``optim``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScheduleConfig:
    """A value over the run, in steps. See `dinojax.schedules` for the two families."""

    family: str = "dinov3"
    """"dinov3" (linear_warmup_cosine_decay) or "dinov2" (cosine_schedule)."""
    start: float = 0.0
    peak: float = 0.0
    end: float = 0.0
    warmup_steps: int = 0
    cosine_steps: int | None = None
    """dinov3 only; None: the rest of the run."""
    trunc_extra: float = 0.0
    """dinov2 only."""


def flat(value: float) -> ScheduleConfig:
    """A value that stays."""
    return ScheduleConfig(start=value, peak=value, end=value)


@dataclass(frozen=True)
class HeadConfig:
    """Size of a projection head."""

    n_prototypes: int = 65536
    bottleneck_dim: int = 256
    nlayers: int = 3
    hidden_dim: int = 2048
    weight_norm: bool = False
    """Prototypes as a direction and a gain (DINOv2)."""


@dataclass(frozen=True)
class DinoConfig:
    """CLS objective and KoLeo."""

    loss_weight: float = 1.0
    global_ignore_diagonal: bool = True
    head: HeadConfig = HeadConfig()
    koleo_loss_weight: float = 0.1
    koleo_group_size: int | None = None
    """Images among which nearest neighbours are searched; None: draw_group_size. They may lie on
    several devices. With micro_batches above 1 the number of groups must be a multiple of
    micro_batches x data x fsdp devices."""
    koleo_topk: int = 1
    local_loss_weight: ScheduleConfig = flat(1.0)


@dataclass(frozen=True)
class IbotConfig:
    """Masked-patch objective."""

    loss_weight: float = 1.0
    mask_sample_probability: float = 0.5
    mask_ratio_min_max: tuple[float, float] = (0.1, 0.5)
    mask_rule: str = "dinov3"
    """"dinov3": a mask has just as many patches as its ratio asks for. "dinov2": it ends at the
    blocks that fit, and its ratio is drawn."""
    mask_random_circular_shift: bool = False
    separate_head: bool = True
    """False: the CLS head is that of the patches too, and `head` must equal dino.head."""
    head: HeadConfig = HeadConfig()


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and what changes over the run."""

    lr: ScheduleConfig = ScheduleConfig(
        family="dinov2", start=0.0, peak=1e-3, end=1e-6, warmup_steps=12_500
    )
    scaling_rule: str = "sqrt_wrt_1024"
    """How lr follows train.batch_size; the start is never scaled, the end only in dinov3 family."""
    freeze_last_layer_steps: int = 1250
    weight_decay: ScheduleConfig = ScheduleConfig(family="dinov2", peak=0.04, end=0.4)
    momentum: ScheduleConfig = ScheduleConfig(family="dinov2", peak=0.992, end=1.0)
    """Of the teacher's moving average."""
    teacher_temp: ScheduleConfig = ScheduleConfig(
        family="dinov2", start=0.04, peak=0.07, end=0.07, warmup_steps=37_500
    )
    clip_grad: float | None = 3.0
    layerwise_decay: float = 0.9
    patch_embed_lr_mult: float = 0.2
    adamw_beta1: float = 0.9
    adamw_beta2: float = 0.999
    moments_dtype: str | None = None
    """What AdamW's moments are stored in. None: the dtype of the parameters; or "bfloat16"."""
