"""Block masks for masked image modelling, with counts known before compilation."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.prng import slot_keys
from dinojax.typing import Array, Bool, Float, Int, Key
from dinojax.views.draws import between, draw, integer_to

ATTEMPTS = 10
ASPECT = (0.3, 1 / 0.3)


def mask_counts(
    num_crops: int, num_patches: int, sample_probability: float, ratio_min_max: tuple[float, float]
) -> Int[np.ndarray, " B"]:
    """Masked patches per crop, ascending: a fixed multiset, zero for the crops that stay whole.

    DINOv3 `collate_data_and_cast`: the masked crops get ``int(P * q)`` with q evenly spaced over
    `ratio_min_max`, its lower end left out. q and the product are rounded to float32 where torch
    rounds them: in float64 some counts differ by one.
    """
    masked = int(num_crops * sample_probability)
    ratios = _torch_linspace(*ratio_min_max, masked + 1)[1:]
    counts = (np.float32(num_patches) * ratios).astype(np.int32)
    return np.sort(np.concatenate([np.zeros(num_crops - masked, np.int32), counts]))


def mask_ratio_bounds(
    num_crops: int, sample_probability: float, ratio_min_max: tuple[float, float]
) -> Float[np.ndarray, "B 2"]:
    """Least and greatest ratio of each crop under DINOv2's rule; `mask_counts` is what they allow.

    DINOv2 `collate_data_and_cast`: the range is cut into as many equal parts as crops are masked.
    """
    masked = int(num_crops * sample_probability)
    edges = _torch_linspace(*ratio_min_max, masked + 1)
    whole = np.zeros((num_crops - masked, 2), np.float32)
    return np.concatenate([whole, np.stack([edges[:-1], edges[1:]], axis=1)])


def max_block_patches(crop_px: int, patch_px: int) -> int:
    """Largest block: about half of the grid (98 patches for 224 px in patches of 16).

    The reference's ``0.5 * crop // patch * crop // patch``, evaluated from left to right.
    """
    return int(0.5 * crop_px // patch_px * crop_px // patch_px)


def sample_masks(
    key: Key,
    counts: Int[np.ndarray, " b"],
    grid_hw: tuple[int, int],
    max_patches: int,
    *,
    circular_shift: bool = False,
) -> Bool[Array, "b P"]:
    """One mask per crop with `counts` dealt out at random; True is masked, patches row by row.

    DINOv3 `collate_data_and_cast`. The total number of masked patches, ``counts.sum()``, is static.
    With `circular_shift` each mask is rolled by a uniform offset along both axes.
    """
    deal_key, mask_key, shift_key = jax.random.split(key, 3)
    dealt = jax.random.permutation(deal_key, jnp.asarray(counts))
    masks = jax.vmap(lambda k, n: sample_block_mask(k, n, grid_hw, max_patches))(
        slot_keys(mask_key, len(counts)), dealt
    )
    if circular_shift:
        masks = roll_at_random(shift_key, masks)
    return masks.reshape(len(counts), -1)


def sample_masks_up_to(
    key: Key,
    ratio_bounds: Float[np.ndarray, "b 2"],
    grid_hw: tuple[int, int],
    max_patches: int,
    *,
    circular_shift: bool = False,
) -> Bool[Array, "b P"]:
    """One mask per crop, by DINOv2's rule, with `ratio_bounds` dealt out at random.

    DINOv2 `collate_data_and_cast`: a crop's target is ``int(P * U(least, greatest))``, and its
    mask may end below it, at the blocks that fit. So the total differs from call to call.
    """
    deal_key, mask_key, shift_key, ratio_key = jax.random.split(key, 4)
    least, greatest = jax.random.permutation(deal_key, jnp.asarray(ratio_bounds)).T
    ratios = between(draw(ratio_key, ratio=len(ratio_bounds))["ratio"], least, greatest)
    patches = grid_hw[0] * grid_hw[1]
    counts = (patches * jnp.minimum(ratios, greatest)).astype(jnp.int32)
    masks = jax.vmap(lambda k, n: place_blocks(k, n, grid_hw, max_patches)[0])(
        slot_keys(mask_key, len(ratio_bounds)), counts
    )
    if circular_shift:
        masks = roll_at_random(shift_key, masks)
    return masks.reshape(len(ratio_bounds), -1)


def roll_at_random(key: Key, masks: Bool[Array, "b h w"]) -> Bool[Array, "b h w"]:
    """Each mask by a uniform offset along both axes."""
    unit = draw(key, shift=2 * len(masks))["shift"].reshape(-1, 2)
    shifts = integer_to(unit, jnp.asarray(masks.shape[1:]) - 1)
    return jax.vmap(lambda mask, by: jnp.roll(mask, by, axis=(0, 1)))(masks, shifts)


def sample_block_mask(
    key: Key, count: int | Int[Array, ""], grid_hw: tuple[int, int], max_patches: int
) -> Bool[Array, "h w"]:
    """Exactly `count` masked patches: random blocks first, single patches for the remainder.

    DINOv3 `MaskingGenerator` (after BEiT, arXiv:2106.08254, algorithm 1).
    """
    block_key, fill_key = jax.random.split(key)
    mask, _ = place_blocks(block_key, count, grid_hw, max_patches)
    return fill_at_random(fill_key, mask, count)


def place_blocks(
    key: Key, count: int | Int[Array, ""], grid_hw: tuple[int, int], max_patches: int
) -> tuple[Bool[Array, "h w"], Int[Array, ""]]:
    """Union of random blocks with at most `count` patches, and how many blocks it took.

    Stops when `count` is reached or ten attempts in a row found no acceptable block. DINOv2's
    `MaskingGenerator` ends here.
    """

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        mask, _, stuck = state
        return ~stuck & (mask.sum() < count)

    def add_block(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        mask, blocks, _ = state
        cap = jnp.minimum(count - mask.sum(), max_patches)
        block = sample_block(jax.random.fold_in(key, blocks), mask, cap)
        found = block.any()
        return mask | block, blocks + found, ~found

    start = jnp.zeros(grid_hw, bool), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    mask, blocks, _ = jax.lax.while_loop(unfinished, add_block, start)
    return mask, blocks


def sample_block(
    key: Key,
    mask: Bool[Array, "h w"],
    cap: int | Int[Array, ""],
    *,
    min_patches: int = 4,
    aspect: tuple[float, float] = ASPECT,
) -> Bool[Array, "h w"]:
    """The first of ten random blocks that adds 1 to `cap` patches to `mask`; empty if none does.

    Area ``U(min_patches, cap)``, log-uniform aspect (height / width), strictly smaller than the
    grid along both axes, at a uniform place. All ten are drawn at once.
    """
    unit = draw(key, area=ATTEMPTS, log_aspect=ATTEMPTS, corner=2 * ATTEMPTS)
    area = between(unit["area"], min_patches, cap)
    stretch = jnp.exp(between(unit["log_aspect"], math.log(aspect[0]), math.log(aspect[1])))
    size = jnp.round(jnp.sqrt(jnp.stack([area * stretch, area / stretch], axis=1))).astype(int)
    grid = jnp.asarray(mask.shape)
    corner = integer_to(unit["corner"].reshape(ATTEMPTS, 2), jnp.maximum(grid - size, 0))

    rows = _interval(corner[:, 0], size[:, 0], mask.shape[0])
    columns = _interval(corner[:, 1], size[:, 1], mask.shape[1])
    blocks = rows[:, :, None] & columns[:, None, :]
    gain = (blocks & ~mask).sum(axis=(1, 2))
    acceptable = (size < grid).all(axis=1) & (gain > 0) & (gain <= cap)
    return blocks[jnp.argmax(acceptable)] & acceptable.any()


def fill_at_random(
    key: Key, mask: Bool[Array, "h w"], count: int | Int[Array, ""]
) -> Bool[Array, "h w"]:
    """Mask uniformly chosen further patches until `count` are masked."""
    lottery = jnp.where(mask.reshape(-1), 2, draw(key, ticket=mask.size)["ticket"])
    place = jnp.argsort(jnp.argsort(lottery)).reshape(mask.shape)
    return mask | (place < count - mask.sum())


def masked_indices(masks: Bool[Array, "b P"], total: int) -> Int[Array, " M"]:
    """Ascending positions of the masked patches in the flattened masks.

    `total` is ``counts.sum()`` of the counts given to `sample_masks`: static, nothing is padded.
    """
    return jnp.flatnonzero(masks, size=total).astype(jnp.int32)


def mask_weights(masks: Bool[Array, "b P"], indices: Int[Array, " M"]) -> Float[Array, " M"]:
    """One over the number of masked patches of its crop, for each masked patch (iBOT loss)."""
    return 1 / masks.sum(axis=1)[indices // masks.shape[1]]


def _interval(
    start: Int[Array, " n"], length: Int[Array, " n"], cells: int
) -> Bool[Array, "n cells"]:
    offset = jnp.arange(cells) - start[:, None]
    return (offset >= 0) & (offset < length[:, None])


def _torch_linspace(start: float, stop: float, steps: int) -> np.ndarray:
    """`torch.linspace` in float32 on CPU: from both ends to the middle, with fused products."""
    first, last = np.float32(start), np.float32(stop)
    step = np.float64((last - first) / np.float32(max(steps - 1, 1)))
    index = np.arange(steps)
    # Products of two float32 are exact in float64: one rounding, as in a fused multiply-add.
    rising, falling = first + step * index, last - step * (steps - 1 - index)
    return np.where(index < steps // 2, rising, falling).astype(np.float32)
