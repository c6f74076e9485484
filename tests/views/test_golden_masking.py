"""Block masks against DINOv3: counts exactly, collation exactly, shapes of blocks in distribution.

``masking/exact.npz`` fixes masks bit by bit for implementations that consume Python's and NumPy's
generators in the reference's order. Ours draws from JAX keys, so only counts and distributions can
agree.
"""

import functools
import re

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from dinojax.views.masks import (
    fill_at_random,
    mask_counts,
    mask_weights,
    masked_indices,
    max_block_patches,
    place_blocks,
    sample_block,
    sample_block_mask,
)

pytestmark = pytest.mark.golden

EXACT = "masking/exact.npz"
STATS, ARRAYS = "masking/stats.json", "masking/stats_arrays.npz"
COUNTS, COLLATE = "masking/batch_counts.json", "masking/collate.npz"
DRAWS = 4000
SEMS = 5


def test_counts_of_every_batch():
    for row in goldens.read_json(COUNTS):
        counts = mask_counts(
            2 * row["batch_size"],
            row["n_tokens"],
            row["mask_probability"],
            tuple(map(float, row["mask_ratio"])),
        )
        assert counts.tolist() == row["sorted_counts"], row
        assert counts.sum() == row["upperbound"] == row["n_masked_patches"]


@pytest.mark.parametrize("name", list(goldens.arrays(EXACT)))
def test_recorded_masks_are_complete(name):
    """The reference's masks have exactly the target count, so ours adds nothing to them."""
    mask = jnp.asarray(goldens.arrays(EXACT)[name])
    target = int(re.search(r"target(\d+)", name)[1])
    filled = fill_at_random(jax.random.key(0), mask, jnp.asarray(target))
    np.testing.assert_array_equal(filled, mask)
    indices = masked_indices(mask.reshape(1, -1), target)
    np.testing.assert_array_equal(indices, np.flatnonzero(mask))


def collated(prefix: str) -> dict[str, np.ndarray]:
    return goldens.children(COLLATE, prefix)


@pytest.mark.parametrize(
    "prefix", sorted({k.split("/")[0] for k in goldens.arrays(COLLATE) if "collated_masks" in k})
)
def test_indices_and_weights(prefix):
    expected = collated(prefix)
    masks = jnp.asarray(expected["collated_masks"])
    total = int(expected["n_masked_patches"][0])
    indices = masked_indices(masks, total)
    assert indices.dtype == jnp.int32
    np.testing.assert_array_equal(indices, expected["mask_indices_list"])
    weights = mask_weights(masks, indices)
    np.testing.assert_allclose(weights, expected["masks_weight"], rtol=1e-6)


def test_views_first_is_the_order_of_the_reference():
    """``[V, B]`` flattened is the reference's crop-major batch, which its masks index."""
    samples = sorted({k.split("/")[0] for k in goldens.arrays(COLLATE) if k.startswith("sample")})
    for name in ("global_crops", "local_crops", "gram_teacher_crops"):
        stacked = np.stack([collated(s)[name] for s in samples], axis=1)
        flat = stacked.reshape(-1, *stacked.shape[2:])
        np.testing.assert_array_equal(flat, collated("collated")[f"collated_{name}"])


CASES = list(goldens.read_json(STATS)["stats"])
GRIDS = sorted({k.split("/")[1] for k in CASES})


def max_patches(grid: str) -> int:
    """From the recorded call, checked against ours for the patch size of the reference's models."""
    height, width = grid.split("x")
    pattern = rf".*input_size=\({height}, {width}\), max_num_patches=([\d.]+)"
    lines = goldens.read_json(STATS)["generators"]
    (limit,) = {float(m[1]) for line in lines if (m := re.match(pattern, line))}
    assert max_block_patches(16 * int(height), 16) == limit
    return int(limit)


@pytest.fixture(scope="module", params=slow_but(["14x14"], GRIDS))
def drawn(request):
    """Of many keys, by target: masks before and after the fill, block counts, and first blocks."""
    grid_hw = tuple(map(int, request.param.split("x")))
    limit = max_patches(request.param)

    @jax.jit
    @jax.vmap
    def draw(key, count):
        block_key, other_key = jax.random.split(key)
        filled = sample_block_mask(key, count, grid_hw, limit)
        placed, blocks = place_blocks(block_key, count, grid_hw, limit)  # the same ones
        cap = jnp.minimum(count, limit)
        first = sample_block(other_key, jnp.zeros(grid_hw, bool), cap)
        return placed, filled, blocks, first

    @functools.cache
    def drawn(target):
        keys = jax.random.split(jax.random.key(target), DRAWS)
        return [np.asarray(values) for values in draw(keys, jnp.full(DRAWS, target))]

    return request.param, drawn


def check_mean(ours: np.ndarray, mean: float, sem: float) -> None:
    allowed = SEMS * np.hypot(sem, ours.std() / np.sqrt(len(ours))) + 1e-9
    assert abs(ours.mean() - mean) <= allowed, (ours.mean(), mean, allowed)


def check_frequencies(ours: np.ndarray, theirs: np.ndarray, theirs_n: int) -> None:
    pooled = (ours * DRAWS + theirs * theirs_n) / (DRAWS + theirs_n)
    sem = np.sqrt(pooled * (1 - pooled) * (1 / DRAWS + 1 / theirs_n))
    # Rare cells are counts of a few: one event is no evidence.
    assert (np.abs(ours - theirs) <= SEMS * sem + 3 / min(DRAWS, theirs_n)).all()


def neighbours_masked(masks: np.ndarray) -> np.ndarray:
    """Per mask: among the 4-neighbours of masked patches that lie on the grid, the masked share."""
    pairs = [(masks[:, 1:], masks[:, :-1]), (masks[:, :, 1:], masks[:, :, :-1])]
    both = sum(2 * (a & b).sum((1, 2)) for a, b in pairs)
    any_ = sum(a.sum((1, 2)) + b.sum((1, 2)) for a, b in pairs)
    return both / any_


def test_distribution(drawn):
    """DINOv2 leaves a mask at the blocks that fit, below the target; DINOv3 fills it up."""
    grid, drawn = drawn
    for case in (c for c in CASES if c.split("/")[1] == grid):
        expected = goldens.read_json(STATS)["stats"][case]
        target = int(case.rsplit("target", 1)[1])
        placed, filled, blocks, first = drawn(target)
        masks = placed if case.startswith("dinov2/") else filled
        assert not (placed & ~filled).any()

        counts = masks.sum(axis=(1, 2))
        assert counts.max() == expected["count_max"] == target
        check_mean(counts, expected["count_mean"], expected["count_sem"])
        fill = counts - placed.sum(axis=(1, 2))
        check_mean(fill, expected["random_fill_mean"], expected["random_fill_sem"])
        check_mean(blocks, expected["blocks_mean"], expected["blocks_sem"])
        check_mean(
            neighbours_masked(masks),
            expected["neighbour_masked_mean"],
            expected["neighbour_masked_sem"],
        )

        height, width = first.any(axis=2).sum(axis=1), first.any(axis=1).sum(axis=1)
        height, width = height[height > 0], width[width > 0]
        check_mean(
            height * width, expected["first_block_area_mean"], expected["first_block_area_sem"]
        )
        check_mean(
            np.log(height / width),
            expected["first_block_log_aspect_mean"],
            expected["first_block_log_aspect_sem"],
        )
        histogram = np.zeros(masks.shape[1:])
        np.add.at(histogram, (height - 1, width - 1), 1 / len(height))
        arrays, n = goldens.children(ARRAYS, case), expected["n_masks"]
        check_frequencies(masks.mean(axis=0), arrays["heatmap"], n)
        check_frequencies(histogram, arrays["first_block_hw_hist"], n)
