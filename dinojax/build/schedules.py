"""From a configuration to everything that changes with the step."""

from collections.abc import Callable

from dinojax.config import Config
from dinojax.config.method import ScheduleConfig
from dinojax.schedules import (
    Schedule,
    cosine_schedule,
    linear_warmup_cosine_decay,
    scale_by_batch,
    zero_before,
)
from dinojax.ssl.loss import Schedules


def build_schedule(
    key: str,
    schedule: ScheduleConfig,
    total_steps: int,
    scale: Callable[[float], float] = lambda value: value,
) -> Schedule:
    """A schedule of either family over `total_steps`.

    `scale` applies to the peak, in the dinov3 family also to the end, as in the two references.

    Args:
        key: of the configuration, for messages.

    Raises:
        ValueError: an unknown family, or more steps of it than there are.
    """
    try:
        return _build_schedule(schedule, total_steps, scale)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _build_schedule(
    schedule: ScheduleConfig, total_steps: int, scale: Callable[[float], float]
) -> Schedule:
    if schedule.family == "dinov3":
        return linear_warmup_cosine_decay(
            start=schedule.start,
            peak=scale(schedule.peak),
            end=scale(schedule.end),
            warmup_steps=schedule.warmup_steps,
            total_steps=total_steps,
            cosine_steps=schedule.cosine_steps,
        )
    if schedule.family == "dinov2":
        return cosine_schedule(
            base=scale(schedule.peak),
            final=schedule.end,
            total_steps=total_steps,
            warmup_steps=schedule.warmup_steps,
            start=schedule.start,
            trunc_extra=schedule.trunc_extra,
        )
    raise ValueError(f"family={schedule.family!r} is unknown; use 'dinov3' or 'dinov2'")


def build_schedules(config: Config) -> Schedules:
    """All schedules, the learning rate scaled to the batch size."""
    optim, steps, batch = config.optim, config.train.steps, config.train.batch_size

    def scaled(value: float) -> float:
        return scale_by_batch(value, optim.scaling_rule, batch)

    rate = build_schedule("optim.lr", optim.lr, steps, scaled)
    return Schedules(
        lr=rate,
        last_layer_lr=zero_before(rate, optim.freeze_last_layer_steps),
        weight_decay=build_schedule("optim.weight_decay", optim.weight_decay, steps),
        momentum=build_schedule("optim.momentum", optim.momentum, steps),
        teacher_temp=build_schedule("optim.teacher_temp", optim.teacher_temp, steps),
        dino_local_loss_weight=build_schedule(
            "dino.local_loss_weight", config.dino.local_loss_weight, steps
        ),
    )
