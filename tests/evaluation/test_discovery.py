"""Objects that the similarities of patches give away."""

import numpy as np
import pytest

from dinojax.evaluation.discovery import cosines, lost, tokencut

GROUND, THING = np.array([1.0, 0.2, 0, 0]), np.array([-0.5, 1, 0, 0])


@pytest.fixture
def patches() -> np.ndarray:
    """A thing of 3 x 4 patches on the ground, which is six times as large."""
    grid = np.tile(GROUND, (8, 10, 1))
    grid[2:5, 3:7] = THING
    noise = np.random.default_rng(0).normal(0, 0.05, grid.shape)
    return grid + noise


@pytest.mark.parametrize("find", [lost, tokencut])
def test_the_thing_is_found(patches, find):
    assert find(patches, 16.0) == (32, 48, 80, 112)
    assert find(100 * patches, 16.0) == (32, 48, 80, 112)  # cosines have no length
    assert find(patches[:, ::-1], 16.0) == (32, 48, 80, 112)


@pytest.mark.parametrize("find", [lost, tokencut])
def test_only_the_region_around_the_surest_patch(patches, find):
    """The same thing once more, apart: the box is of one of them."""
    patches[6:8, 0:2] = THING
    assert find(patches, 1.0) in [(2, 3, 5, 7), (6, 0, 8, 2)]


def test_the_eigenvector_is_that_of_the_normalised_cut(patches):
    """Of all ways to cut a small graph in two, TokenCut's is the one with the smallest Ncut."""
    small = patches[1:4, 2:6]  # 12 patches: 2047 cuts
    weights = np.where(cosines(small) > 0.2, 1.0, 1e-5)
    degree = weights.sum(1)

    def ncut(mask: np.ndarray) -> float:
        cut = weights[mask][:, ~mask].sum()
        return cut / degree[mask].sum() + cut / degree[~mask].sum()

    cuts = ((np.arange(1, 2**11)[:, None] >> np.arange(12)) & 1).astype(bool)
    best = cuts[np.argmin([ncut(mask) for mask in cuts])].reshape(3, 4)
    thing = np.zeros((3, 4), bool)
    thing[1:, 1:] = True
    assert (best == thing).all() or (best == ~thing).all()
    assert tokencut(small, 1.0) in [(1, 1, 3, 4), (0, 0, 3, 4)]


def test_the_threshold_decides_what_is_similar(patches):
    """Ground and thing have a cosine of -0.3: below a threshold of -0.5 there is nothing to cut."""
    assert -0.4 < cosines(patches)[0, 2 * 10 + 3] < -0.2
    assert tokencut(patches, 1.0, threshold=-0.1) == (2, 3, 5, 7)
    assert tokencut(patches, 1.0, threshold=-0.5) != (2, 3, 5, 7)


def test_patches_that_are_all_alike():
    """A collapsed model finds the whole image, or a part, and raises nothing."""
    for find in (lost, tokencut):
        top, left, bottom, right = find(np.ones((4, 4, 3)), 1.0)
        assert 0 <= top < bottom <= 4 and 0 <= left < right <= 4
