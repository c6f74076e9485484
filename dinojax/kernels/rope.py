"""Axial rotary position embedding (RoPE) over normalised patch coordinates (DINOv3, section 3.1).

The angle of a patch is ``2 pi * coordinate / period`` with coordinates in [-1, 1], so the same
weights serve every resolution. During training the coordinates may be shifted, jittered and
rescaled.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.precision import widen
from dinojax.typing import Array, Float

COORDINATE_MODES = ("separate", "max", "min")


class RopeTables(NamedTuple):
    """Sine and cosine per token; prefix tokens have sin 0 and cos 1, so they are not rotated."""

    sin: Float[Array, "*L G N d"]
    cos: Float[Array, "*L G N d"]


class CoordinateDraws(NamedTuple):
    """Augmentation of (y, x) in the order of application; a field that is None is not applied."""

    shift: Float[Array, "*L G 2"] | None = None
    """Added."""
    log_jitter: Float[Array, "*L G 2"] | None = None
    """``exp`` of it multiplies y and x separately."""
    log_rescale: Float[Array, "*L G 1"] | None = None
    """``exp`` of it multiplies both."""


def rope_periods(
    head_dim: int,
    *,
    base: float | None = 100.0,
    min_period: float | None = None,
    max_period: float | None = None,
    dtype: DTypeLike,
) -> Float[Array, " F"]:
    """Periods in units of the half-extent of the image: geometric, from `base` or from both bounds.

    Raises:
        ValueError: `head_dim` is no multiple of 4, or not exactly one parametrisation is given.
    """
    if head_dim % 4:
        raise ValueError(
            f"head_dim={head_dim} is not a multiple of 4, which axial RoPE needs (two axes, two "
            f"halves); use {head_dim // 4 * 4 + 4} or change the number of heads"
        )
    bounds = (min_period, max_period)
    if (base is None) == (None in bounds) or (base is not None and bounds != (None, None)):
        raise ValueError(
            f"rope base={base}, min_period={min_period}, max_period={max_period}: give either "
            "pos_embed_rope_base or both pos_embed_rope_min_period and pos_embed_rope_max_period"
        )
    round_ = _rounding(dtype)
    if base is not None:
        exponents = round_(2 * jnp.arange(head_dim // 4, dtype=_wide(dtype)) / (head_dim // 2))
        periods = round_(base**exponents)
    else:
        assert min_period is not None and max_period is not None
        ratio = max_period / min_period
        exponents = _unit_linspace(head_dim // 4, dtype)
        periods = round_(round_(round_(ratio**exponents) / ratio) * max_period)
    return periods.astype(dtype)


def rope_tables(
    grid: tuple[int, int],
    periods: Float[Array, " F"],
    *,
    mode: str = "separate",
    prefix_tokens: int = 0,
    draws: CoordinateDraws | None = None,
) -> RopeTables:
    """Tables for a grid of ``(rows, columns)`` patches, in the dtype of `periods`.

    Layout along ``d`` is ``[y, x, y, x]``, a quarter each. `mode` divides y and x by their own
    extent ("separate") or both by the larger ("max") or smaller ("min"). Without `draws` the
    leading axis is ``G = 1``; with `draws` the tables have the draws' leading axes.

    Raises:
        ValueError: unknown `mode`.
    """
    if mode not in COORDINATE_MODES:
        raise ValueError(f"normalize_coords={mode!r} is unknown; use one of {COORDINATE_MODES}")
    dtype = periods.dtype
    round_, wide = _rounding(dtype), _wide(dtype)
    extents = {"separate": grid, "max": (max(grid),) * 2, "min": (min(grid),) * 2}[mode]
    axes = [round_(jnp.arange(n, dtype=wide) + 0.5) for n in grid]
    axes = [round_(2 * round_(a / extent)) - 1 for a, extent in zip(axes, extents, strict=True)]
    y, x = jnp.meshgrid(round_(axes[0]), round_(axes[1]), indexing="ij")
    coordinates = jnp.stack([y.ravel(), x.ravel()], axis=-1)[None]
    coordinates = _augment(coordinates, draws, round_)

    angles = round_(round_(2 * jnp.pi * coordinates)[..., None] / periods.astype(wide))
    angles = angles.reshape(*angles.shape[:-2], -1)
    angles = jnp.concatenate([angles, angles], axis=-1)
    pad = [(0, 0)] * (angles.ndim - 2) + [(prefix_tokens, 0), (0, 0)]
    angles = jnp.pad(angles, pad)  # angle 0: sin 0, cos 1
    return RopeTables(jnp.sin(angles).astype(dtype), jnp.cos(angles).astype(dtype))


def apply_rope(
    x: Float[Array, "G b N H d"],
    tables: RopeTables,
) -> Float[Array, "G b N H d"]:
    """Rotate feature k against k + d/2 by the token's angle ("rotate-half").

    Products are at least float32; with bf16 tables each is rounded to bf16, as in the reference.
    """
    round_ = _rounding(tables.sin.dtype)
    (low_sin, high_sin), (low_cos, high_cos) = (
        jnp.split(widen(t)[:, None, :, None, :], 2, axis=-1) for t in tables
    )
    low, high = jnp.split(round_(widen(x)), 2, axis=-1)
    low, high = (
        round_(round_(low * low_cos) - round_(high * low_sin)),
        round_(round_(high * high_cos) + round_(low * high_sin)),
    )
    return jnp.concatenate([low, high], axis=-1).astype(x.dtype)


def _unit_linspace(count: int, dtype: DTypeLike) -> Float[Array, " F"]:
    """`count` values from 0 to 1 as torch rounds them: the step first, then from both ends."""
    round_, i = _rounding(dtype), jnp.arange(count, dtype=_wide(dtype))
    step = round_(jnp.asarray(1 / max(count - 1, 1), _wide(dtype)))
    late = (i >= count // 2) & (count > 1)
    return round_(jnp.where(late, 1 - round_(step * (count - 1 - i)), step * i))


def _augment(coordinates, draws, round_):
    if draws is None:
        return coordinates
    if draws.shift is not None:
        coordinates = round_(coordinates + round_(draws.shift)[..., None, :])
    if draws.log_jitter is not None:
        coordinates = round_(coordinates * round_(jnp.exp(draws.log_jitter))[..., None, :])
    if draws.log_rescale is not None:
        coordinates = round_(coordinates * round_(jnp.exp(draws.log_rescale))[..., None, :])
    return coordinates


def _wide(dtype: DTypeLike):
    return jnp.promote_types(dtype, jnp.float32)


def _rounding(dtype: DTypeLike) -> Callable[[Array], Array]:
    """Round to `dtype` without leaving the wide dtype; nothing to do for wide dtypes.

    A cast there and back may be optimised away; `reduce_precision` may not. In bf16 the reference
    rounds after every operation, and the result depends on it.
    """
    if _wide(dtype) == dtype:
        return lambda x: x
    info = jnp.finfo(dtype)
    return lambda x: jax.lax.reduce_precision(x, info.nexp, info.nmant)
