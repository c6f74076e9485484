"""Learning rates (and AdamW's beta1) of the published heads, step by step as their code has them.

PyTorch's one-cycle policy is not what is used there: warm-up and decay overlap. Steps count from 0.
"""

import jax.numpy as jnp

from dinojax.schedules import Schedule
from dinojax.typing import Array, Float, Step


def segmentation_rate(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """DINOv3's `WarmupOneCycle` as its segmentation head uses it.

    During warm-up, ``peak (1 - (1 - s / warmup)(1 - 1e-6)) (1 - s / total)``, then
    ``peak / 2 (1 + cos(pi (s + 1) / total))``. The first two steps share s = 0, since the scheduler
    is not stepped after the very first one.
    """

    def rate(step: Step) -> Float[Array, ""]:
        s = jnp.maximum(jnp.asarray(step, float) - 1, 0)
        share = s / max(warmup_steps, 1)
        rising = share + (1 - share) * 1e-6  # the same without cancellation
        decay = (1 + jnp.cos(jnp.pi * (s + 1) / total_steps)) / 2
        return peak * jnp.where(s < warmup_steps, rising * (1 - s / total_steps), decay)

    return rate


def poly_rate(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """MMSegmentation's, as DINOv2's heads use it: linear to 0, with the same warm-up on top."""

    def rate(step: Step) -> Float[Array, ""]:
        s = jnp.asarray(step, float)
        share = jnp.minimum(s / max(warmup_steps, 1), 1)
        return peak * (share + (1 - share) * 1e-6) * (1 - s / total_steps)

    return rate


def depth_rate(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """The same class as DINOv3's depth head uses it: from peak / 1000, and to peak / 25000."""

    def rate(step: Step) -> Float[Array, ""]:
        s = jnp.asarray(step, float)
        rising = peak / 1000 + peak * _half_cosine(s / total_steps) * s / max(warmup_steps, 1)
        end = peak / 25000
        decay = end + (peak - end) * _half_cosine((s + 1) / total_steps)
        return jnp.where(s < warmup_steps, rising, decay)

    return rate


def depth_beta1(warmup_steps: int, total_steps: int) -> Schedule:
    """The scheduler's momentum overwrites AdamW's beta1: 0, then 0.85 to 0.95 along a cosine."""

    def beta1(step: Step) -> Float[Array, ""]:
        s = jnp.asarray(step, float)
        return jnp.where(s < warmup_steps, 0, 0.95 - 0.1 * _half_cosine((s + 1) / total_steps))

    return beta1


def _half_cosine(share: Float[Array, ""]) -> Float[Array, ""]:
    """From 1 to 0."""
    return (1 + jnp.cos(jnp.pi * share)) / 2
