"""Counts, exactness and determinism of masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.views.masks import (
    fill_at_random,
    mask_counts,
    mask_ratio_bounds,
    mask_weights,
    masked_indices,
    max_block_patches,
    place_blocks,
    sample_block,
    sample_block_mask,
    sample_masks,
    sample_masks_up_to,
)

GRID = (7, 9)
CELLS = GRID[0] * GRID[1]


def test_published_totals():
    """Masked patches per batch of the published recipes (spec, section 5.2)."""
    for crops, patches, total in [
        (128, 196, 3771),
        (32, 256, 1274),
        (80, 256, 3104),
        (48, 256, 1883),
        (16, 1024, 2659),
        (16, 2304, 5987),
    ]:
        assert mask_counts(crops, patches, 0.5, (0.1, 0.5)).sum() == total


@pytest.mark.parametrize(("crop", "limit"), [(224, 98), (256, 128), (512, 512), (240, 105)])
def test_max_block(crop, limit):
    assert max_block_patches(crop, 16) == limit


def test_every_count_is_met_and_blocks_never_exceed_it():
    counts = jnp.tile(jnp.arange(CELLS + 1), 8)
    keys = jax.random.split(jax.random.key(0), len(counts))

    @jax.jit
    @jax.vmap
    def sample(key, count):
        return sample_block_mask(key, count, GRID, 12), place_blocks(key, count, GRID, 12)

    masks, (placed, blocks) = sample(keys, counts)
    np.testing.assert_array_equal(masks.sum(axis=(1, 2)), counts)
    covered = placed.sum(axis=(1, 2))
    assert (covered <= counts).all()
    assert (blocks >= np.ceil(covered / 12)).all()


add_block = jax.jit(jax.vmap(lambda k, mask: sample_block(k, mask, 10), (0, None)))
KEYS = jax.random.split(jax.random.key(3), 512)


def test_a_block_is_one_rectangle_that_adds_something():
    covered = jnp.zeros(GRID, bool).at[:, :4].set(True)
    blocks = np.asarray(add_block(KEYS, covered))
    assert blocks.any(axis=(1, 2)).mean() > 0.9
    for block in blocks[blocks.any(axis=(1, 2))]:
        rows, columns = block.any(axis=1), block.any(axis=0)
        np.testing.assert_array_equal(block, rows[:, None] & columns[None])
        assert (np.diff(np.flatnonzero(rows)) == 1).all()
        assert (np.diff(np.flatnonzero(columns)) == 1).all()
        assert rows.sum() < GRID[0] and columns.sum() < GRID[1]
        assert 0 < (block & ~np.asarray(covered)).sum() <= 10


def test_no_block_fits_a_full_grid():
    assert not add_block(KEYS, jnp.ones(GRID, bool)).any()


def test_smallest_area_and_aspect_of_a_block():
    empty = jnp.zeros(GRID, bool)
    square = jax.jit(lambda k: sample_block(k, empty, 9, min_patches=9, aspect=(1.0, 1.0)))
    block = np.asarray(square(jax.random.key(7)))
    assert block.sum() == 9 and block.any(axis=0).sum() == block.any(axis=1).sum() == 3


def test_fill_is_uniform_over_the_unmasked():
    mask = jnp.zeros(GRID, bool).at[2:4].set(True)
    keys = jax.random.split(jax.random.key(4), 4000)
    filled = np.asarray(jax.jit(jax.vmap(lambda k: fill_at_random(k, mask, 18 + 9)))(keys))
    assert (filled.sum(axis=(1, 2)) == 27).all()
    assert filled[:, 2:4].all()
    free = filled.mean(axis=0)[~np.asarray(mask)]
    probability = 9 / (CELLS - 18)
    assert np.abs(free - probability).max() < 5 * np.sqrt(probability * (1 - probability) / 4000)


def test_batch_has_the_counts_in_random_order():
    counts = mask_counts(16, CELLS, 0.5, (0.1, 0.5))
    keys = jax.random.split(jax.random.key(5), 64)
    sample = jax.jit(jax.vmap(lambda k: sample_masks(k, counts, GRID, CELLS // 2)))
    sizes = np.asarray(sample(keys).sum(axis=2))
    np.testing.assert_array_equal(np.sort(sizes), np.tile(counts, (64, 1)))
    assert len({tuple(row) for row in sizes}) == 64
    # Every crop is masked about half of the time: the empty masks are dealt out too.
    assert np.abs((sizes > 0).mean(axis=0) - 0.5).max() < 5 * 0.5 / 8
    np.testing.assert_array_equal(sample(keys), sample(keys))


def test_circular_shift_rolls_each_mask_by_its_own_offset():
    counts = np.full(256, 6, np.int32)

    @jax.jit
    def sample(key):
        return [sample_masks(key, counts, GRID, 30, circular_shift=s) for s in (False, True)]

    plain, shifted = (np.asarray(m).reshape(-1, *GRID) for m in sample(jax.random.key(6)))
    offsets = set()
    for mask, rolled in zip(plain, shifted, strict=True):
        found = {
            (dy, dx)
            for dy in range(GRID[0])
            for dx in range(GRID[1])
            if (np.roll(mask, (dy, dx), (0, 1)) == rolled).all()
        }
        assert len(found) == 1
        offsets |= found
    assert {dy for dy, _ in offsets} == set(range(GRID[0]))
    assert {dx for _, dx in offsets} == set(range(GRID[1]))


def test_indices_and_weights():
    masks = jnp.zeros((3, 5), bool).at[0, 1].set(True).at[2, jnp.array([0, 2, 3])].set(True)
    indices = masked_indices(masks, 4)
    np.testing.assert_array_equal(indices, [1, 10, 12, 13])
    np.testing.assert_allclose(mask_weights(masks, indices), [1, 1 / 3, 1 / 3, 1 / 3], rtol=1e-6)


def test_dinov2s_rule_stays_below_the_bounds_of_each_crop():
    """Each masked crop has its own part of the range, dealt at random; the others stay whole."""
    grid, crops, limit = (14, 14), 8, 98
    bounds = mask_ratio_bounds(crops, 0.5, (0.1, 0.5))
    np.testing.assert_allclose(np.sort(bounds[:, 0]), [0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4], atol=1e-6)
    np.testing.assert_allclose(np.sort(bounds[:, 1]), [0, 0, 0, 0, 0.2, 0.3, 0.4, 0.5], atol=1e-6)
    most = np.sort(mask_counts(crops, 196, 0.5, (0.1, 0.5)))

    sample = jax.jit(lambda key: sample_masks_up_to(key, bounds, grid, limit))
    masks = np.stack([sample(key) for key in jax.random.split(jax.random.key(0), 50)])
    counts = masks.sum(axis=2)
    assert masks.shape == (50, crops, 196)
    assert (np.sort(counts, axis=1) <= most).all()
    assert (np.sort(counts, axis=1)[:, :4] == 0).all()
    # Targets are uniform in each part, and blocks reach nearly all of a target.
    means = np.sort(counts, axis=1)[:, 4:].mean(axis=0) / 196
    np.testing.assert_allclose(means, [0.15, 0.25, 0.35, 0.45], atol=0.02)
    assert len(np.unique(counts.sum(axis=1))) > 20, "totals vary"
    masked = counts > 0
    assert (masked.any(axis=0) & ~masked.all(axis=0)).all(), "any crop may be masked or whole"
