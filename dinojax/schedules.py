"""Schedules as pure functions of the step: the two families of the DINO recipes.

A schedule is a callable ``step -> value``; inside jit the step is traced and the value is a scalar
of the default float dtype, outside jit under 64-bit mode it is exact to 1e-12.
"""

from collections.abc import Callable

import jax.numpy as jnp

from dinojax.typing import Array, Float, Step

Schedule = Callable[[Step], Float[Array, ""]]


def linear_warmup_cosine_decay(
    *,
    start: float,
    peak: float,
    end: float,
    warmup_steps: int,
    total_steps: int,
    cosine_steps: int | None = None,
) -> Schedule:
    """DINOv3's family: linear `start` to `peak`, cosine to `end` (both ends included), then `end`.

    The cosine takes `cosine_steps` (default: all that remain); 0 of them jump straight to `end`.

    Raises:
        ValueError: warm-up and cosine are longer than the run.
    """
    cosine = total_steps - warmup_steps if cosine_steps is None else cosine_steps
    if warmup_steps < 0 or cosine < 0 or warmup_steps + cosine > total_steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} and cosine_steps={cosine_steps} do not fit into "
            f"{total_steps} steps; shorten them or train longer"
        )

    def schedule(step: Step) -> Float[Array, ""]:
        t = jnp.asarray(step, float)
        warm = start + (peak - start) * t / max(warmup_steps, 1)
        phase = (t - warmup_steps) / max(cosine - 1, 1)
        decay = end + (peak - end) * (1 + jnp.cos(jnp.pi * phase)) / 2
        late = jnp.where(t < warmup_steps + cosine, decay, end)
        return jnp.where(t < warmup_steps, warm, late)

    return schedule


def cosine_schedule(
    *,
    base: float,
    final: float,
    total_steps: int,
    warmup_steps: int = 0,
    start: float = 0.0,
    freeze_steps: int = 0,
    trunc_extra: float = 0.0,
) -> Schedule:
    """DINOv2's family: zero while frozen, inclusive linear warm-up, cosine to `final`, then flat.

    The cosine's last value inside the run is one sample short of `final`. `trunc_extra` x > 0 takes
    the first part of a cosine (1 + x) times as long, rescaled to end exactly at `final`.

    Raises:
        ValueError: freeze and warm-up are longer than the run.
    """
    cosine = total_steps - warmup_steps - freeze_steps
    if cosine < 0:
        frozen = f" and freeze_steps={freeze_steps}" if freeze_steps else ""
        raise ValueError(
            f"warmup_steps={warmup_steps}{frozen} do not fit into {total_steps} steps; shorten "
            "them or train longer"
        )

    def half_cosine(i: Float[Array, ""]) -> Float[Array, ""]:
        if not trunc_extra:
            return (1 + jnp.cos(jnp.pi * i / max(cosine, 1))) / 2
        samples = int((1 + trunc_extra) * cosine) - 1
        last = (1 + jnp.cos(jnp.pi * (cosine - 1) / samples)) / 2
        return ((1 + jnp.cos(jnp.pi * i / samples)) / 2 - last) / (1 - last)

    def schedule(step: Step) -> Float[Array, ""]:
        t = jnp.asarray(step, float)
        warm = start + (base - start) * (t - freeze_steps) / max(warmup_steps - 1, 1)
        decay = final + (base - final) * half_cosine(t - freeze_steps - warmup_steps)
        value = jnp.where(t < freeze_steps + warmup_steps, warm, decay)
        value = jnp.where(t < freeze_steps, 0.0, value)
        return jnp.where(t < total_steps, value, final)

    return schedule


def zero_before(schedule: Schedule, steps: int) -> Schedule:
    """`schedule`, but zero for the first `steps` steps (the frozen last layer)."""
    return lambda step: jnp.where(jnp.asarray(step) < steps, 0.0, schedule(step))


SCALING_RULES: dict[str, Callable[[float, int], float]] = {
    "none": lambda value, batch: value,
    "linear_wrt_256": lambda value, batch: value * batch / 256,
    # The factor 4 is in DINOv3's code, not in DINOv2's, and its published peaks rely on it.
    "sqrt_wrt_1024": lambda value, batch: value * 4 * (batch / 1024) ** 0.5,
    "sqrt_wrt_1024_dinov2": lambda value, batch: value * (batch / 1024) ** 0.5,
}


def scale_by_batch(value: float, rule: str, global_batch: int) -> float:
    """Learning rate for a global batch of images.

    Raises:
        ValueError: unknown `rule`.
    """
    if rule not in SCALING_RULES:
        raise ValueError(f"scaling_rule={rule!r} is unknown; use one of {sorted(SCALING_RULES)}")
    return SCALING_RULES[rule](value, global_batch)
