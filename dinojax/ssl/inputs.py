"""What one step computes on, and the two layouts of multi-crop arrays.

A *group* is the set of images that share random draws (stochastic depth counts, RoPE rescale, mask
counts): the reference's per-device batch, here a number in the config (`draw_group_size`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from dinojax.kernels.rope import CoordinateDraws
from dinojax.models.block import KeptRows, kept_count
from dinojax.models.convnext_block import drop_path_gains
from dinojax.models.features import CropDraws
from dinojax.prng import key_for, slot_keys
from dinojax.typing import Array, Bool, Float, Int, Key, Step


class StepInputs(NamedTuple):
    """Everything random or read that enters one training step."""

    global_crops: Float[Array, "V B S S C"]
    local_crops: Float[Array, "W B s s C"]
    masks: Bool[Array, "G b P"] | None
    """Patches of the global crops, in group layout, that the student is not shown; None: it sees
    all of them (distillation)."""
    mask_indices: Int[Array, "G M"]
    """Which of each group's ``[b * P]`` patches are predicted, ascending; a static number. The
    masked ones, where there are any."""
    mask_weights: Float[Array, "G M"]
    """One over the number of masked patches in the token's own crop."""
    draws: tuple[CropDraws | None, ...] = (None, None)
    """Stochastic depth and RoPE augmentation of the student, for global and local crops."""
    teacher_crops: Float[Array, "V B S S C"] | None = None
    """What the teacher sees; None: the global crops."""
    mask_real: Bool[Array, "G M"] | None = None
    """Which of the entries for masked patches stand for one; None: all (DINOv3's rule). The rest
    fill them up to the most that DINOv2's rule can mask, and have weight 0."""
    gram_crops: Float[Array, "V B T T C"] | None = None
    """What the Gram teacher sees; None: the global crops."""


def to_groups(x: Float[Array, "V B *X"], groups: int) -> Float[Array, "G b *X"]:
    """``[V, B, ..]`` to ``[G, V * g, ..]``, crop-major inside a group.

    With ``B`` sharded and a multiple of shards as `groups` this moves nothing between devices.
    """
    return rearrange(x, "V (G g) ... -> G (V g) ...", G=groups)


def to_views(x: Float[Array, "G b *X"], views: int) -> Float[Array, "V B *X"]:
    """The inverse of `to_groups`."""
    return rearrange(x, "G (V g) ... -> V (G g) ...", V=views)


def gather_patches(
    patches: Float[Array, "G b P D"], indices: Int[Array, "G M"]
) -> Float[Array, "G M D"]:
    """Patches of each group at flat positions in its ``[b * P]``."""
    flat = patches.reshape(patches.shape[0], -1, patches.shape[-1])
    return jax.vmap(lambda rows, index: rows[index])(flat, indices)


class DrawRates(NamedTuple):
    """Strength of the student's stochastic regularisers; None or 0 switches one off."""

    drop_path_rate: float = 0.0
    shift_coords: float | None = None
    jitter_coords: float | None = None
    rescale_coords: float | None = None


def make_draws(
    rates: DrawRates, *, seed: int, depth: int, rows: dict[str, int]
) -> Callable[[Step, Int[Array, " G"]], tuple[CropDraws | None, ...]]:
    """Draws of the given groups at one step for each crop size in `rows` (name -> crops per group).

    Every (step, crop size, group) has its own key; within it, layers and branches draw separately,
    as in the reference. The result does not depend on the mesh.
    """
    if rates == DrawRates():
        return lambda step, slots: (None,) * len(rows)

    def draws(step: Step, slots: Int[Array, " G"]) -> tuple[CropDraws | None, ...]:
        return tuple(
            _layer_major(
                jax.vmap(lambda key, n=count: _group_draws(key, rates, depth, n))(
                    slot_keys(key_for(seed, step, "draws", name), slots)
                )
            )
            for name, count in rows.items()
        )

    return draws


def make_gain_draws(
    drop_path_rate: float, *, seed: int, depth: int, rows: dict[str, int]
) -> Callable[[Step, Int[Array, " G"]], tuple[CropDraws | None, ...]]:
    """As `make_draws`, for a ConvNeXt: stochastic depth for each crop by itself is all it has."""
    if not drop_path_rate:
        return lambda step, slots: (None,) * len(rows)

    def crop_draws(step: Step, slots: Int[Array, " G"], name: str, count: int) -> CropDraws:
        keys = slot_keys(key_for(seed, step, "draws", name), slots)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (depth, count)))(keys)
        return CropDraws(None, None, drop_path_gains(jnp.swapaxes(uniform, 0, 1), drop_path_rate))

    return lambda step, slots: tuple(
        crop_draws(step, slots, name, count) for name, count in rows.items()
    )


def _layer_major(draws: CropDraws) -> CropDraws:
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), draws)


def _group_draws(key: Key, rates: DrawRates, depth: int, rows: int) -> CropDraws:
    """Draws of one group; leaves ``[L, ..]``."""
    shift, jitter, rescale, attention, ffn = jax.random.split(key, 5)

    def uniform(key: Key, bound: float | None, width: int) -> Float[Array, "L width"] | None:
        if bound is None:
            return None
        return jax.random.uniform(key, (depth, width), minval=-bound, maxval=bound)

    def log(multiplier: float | None) -> float | None:
        return None if multiplier is None else math.log(multiplier)

    coordinates = CoordinateDraws(
        uniform(shift, rates.shift_coords, 2),
        uniform(jitter, log(rates.jitter_coords), 2),
        uniform(rescale, log(rates.rescale_coords), 1),
    )
    kept = None
    if rates.drop_path_rate:
        count = kept_count(rows, rates.drop_path_rate)

        def rows_of(key: Key) -> Int[Array, "L m"]:
            keys = jax.random.split(key, depth)
            return jax.vmap(lambda k: jax.random.permutation(k, rows)[:count])(keys)

        kept = KeptRows(rows_of(attention), rows_of(ffn))
    return CropDraws(None if coordinates == CoordinateDraws() else coordinates, kept)
