"""Matching under known warps, with features whose matches are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.correspondence import count_correct, draw_warp, pck, see_warped
from dinojax.evaluation.warp import homography, project

SIDE, GRID = 32, 4
CORNERS = np.array([[0.0, 0], [0, 31], [31, 31], [31, 0]])
IDENTITY = np.eye(3)
RIGHT_8 = homography(CORNERS, CORNERS + np.array([0, 8.0]))
"""By one patch."""


def count(patches, others, warps, alphas=(0.1, 0.3)):
    given = (jnp.asarray(np.asarray(x), jnp.float32) for x in (patches, others, warps))
    right, asked = count_correct(*given, side_px=SIDE, alphas=alphas)
    return np.asarray(right), np.asarray(asked)


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    """All different: each patch its own direction."""
    return np.eye(GRID**2).reshape(1, GRID, GRID, -1)


def test_a_copy_of_itself(patches):
    right, asked = count(patches, patches, IDENTITY[None])
    assert right.tolist() == [[16, 16]] and asked.tolist() == [16]
    assert pck([(right, asked)]).tolist() == [1, 1]


def test_a_shift_by_one_patch(patches):
    """The last column leaves the image. Features that stay are 8 px off: 0.25 sides."""
    moved = np.roll(patches, 1, axis=2)
    right, asked = count(
        np.repeat(patches, 2, 0), np.concatenate([moved, patches]), np.stack([RIGHT_8, RIGHT_8])
    )
    assert asked.tolist() == [12, 12]
    assert right.tolist() == [[12, 12], [0, 12]]
    assert pck([(right[:1], asked[:1]), (right[1:], asked[1:])]).tolist() == [0.5, 1]


def test_length_of_features_does_not_matter(patches):
    right, _ = count(patches * np.arange(1, 17).reshape(4, 4, 1), 3 * patches, IDENTITY[None])
    assert right.tolist() == [[16, 16]]


def test_what_the_copy_shows():
    """At the place where a pixel went there is that pixel."""
    image = np.random.default_rng(0).uniform(size=(1, SIDE, SIDE, 3)).astype(np.float32)
    warp = jnp.asarray(RIGHT_8[None], jnp.float32)
    copy, content = see_warped(jnp.asarray(image), warp)
    np.testing.assert_allclose(copy[0, :, 9:], image[0, :, 1:-8], atol=1e-3)
    assert content[0, 1:-1, 9:].all() and not content[0, :, :7].any()


def test_warps_are_drawn_within_their_bounds():
    def moved(**given: float) -> np.ndarray:
        none = {"angle_deg": 0.0, "scale": 1.0, "jitter": 0.0}
        found = [draw_warp(0, i, SIDE, **(none | given)) for i in range(50)]
        return np.stack([project(jnp.asarray(m), jnp.asarray(CORNERS)) for m in found]) - CORNERS

    assert np.abs(moved()).max() < 1e-3
    assert 3 < np.abs(moved(jitter=0.1)).max() <= 3.3
    turned = moved(angle_deg=30.0) + CORNERS - 15.5
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), 15.5 * 2**0.5, rtol=1e-3)
    angles = np.rad2deg(np.arctan2(turned[:, 1, 0], turned[:, 1, 1])) + 45
    assert angles.min() < -20 and angles.max() > 20 and np.abs(angles).max() <= 30.1
    zoomed = np.linalg.norm(moved(scale=1.5) + CORNERS - 15.5, axis=-1) / (15.5 * 2**0.5)
    assert 0.66 < zoomed.min() < 0.75 and 1.35 < zoomed.max() < 1.51
    first, again, other = (
        draw_warp(*k, SIDE, angle_deg=9.0, scale=1.2, jitter=0.1) for k in ((1, 2), (1, 2), (1, 3))
    )
    assert (first == again).all() and (first != other).any()


def test_nothing_to_match():
    with pytest.raises(ValueError, match="no patch stays in its image"):
        pck([(np.zeros((2, 1)), np.zeros(2))])
