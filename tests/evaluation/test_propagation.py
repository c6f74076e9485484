"""Masks through frames whose matches are known, and one frame against a loop over patches."""

import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.propagation import Neighbours, hard_masks, propagate, take_masks

H, W, D, K = 4, 5, 6, 3


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_one_frame_patch_by_patch():
    """Two known frames of three; circle of radius 2; the three most similar."""
    rng = np.random.default_rng(0)
    features, sources = unit(rng.normal(size=(H, W, D))), unit(rng.normal(size=(3, H, W, D)))
    masks = rng.dirichlet(np.ones(K), (3, H, W))
    expected = np.zeros((H, W, K))
    for y in range(H):
        for x in range(W):
            near = [
                (features[y, x] @ sources[n, v, u], n, v, u)
                for n in range(2)
                for v in range(H)
                for u in range(W)
                if (v - y) ** 2 + (u - x) ** 2 <= 4
            ]
            best = sorted(near, reverse=True)[:3]
            weights = np.exp([cosine / 0.2 for cosine, *_ in best])
            for weight, (_, *place) in zip(weights / weights.sum(), best, strict=True):
                expected[y, x] += weight * masks[tuple(place)]
    given = (jnp.asarray(x, jnp.float32) for x in (features, sources, masks))
    known = jnp.array([True, True, False])
    found = take_masks(*given, known, radius=2.0, topk=3, temperature=0.2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def columns(place: int) -> np.ndarray:
    """Patches that are all different, and a thing one column wide."""
    grid = np.concatenate([np.zeros((H, W, 2)), 0.1 * np.eye(H * W).reshape(H, W, -1)], -1)
    grid[..., 0] = 1
    grid[:, place, :2] = 0, 1
    return grid


def test_a_thing_that_moves():
    """By one column per frame: the last place is farther from the first than the circle reaches."""
    frames = [jnp.asarray(columns(place), jnp.float32) for place in range(W)]
    first = jnp.asarray(np.eye(2)[(np.arange(W) == 0).astype(int)][None].repeat(H, 0), jnp.float32)

    def places(neighbours: Neighbours) -> list[list[int]]:
        masks = propagate(frames, first, neighbours)
        return [np.flatnonzero(np.asarray(mask[2, :, 1]) > 0.5).tolist() for mask in masks]

    near = Neighbours(context=2, radius=1.5, topk=2)
    assert places(near) == [[1], [2], [3], [4]]
    # With nothing but the first frame, the thing is lost where that has none of it within reach.
    assert places(Neighbours(context=0, radius=1.5, topk=2)) == [[1], [], [], []]


def test_hard_masks():
    """Stretched: a mask whose largest value is 0.3 wins where it has it, one that is 0 nowhere."""
    soft = jnp.zeros((2, 2, 3)).at[..., 0].set(jnp.array([[0.7, 1.0], [1.0, 1.0]]))
    soft = soft.at[0, 0, 1].set(0.3)
    found = np.asarray(hard_masks(soft, (4, 4)))
    assert found[0, 0] == 1 and found[3, 3] == found[0, 3] == 0
    assert not (found == 2).any()


@pytest.mark.parametrize("length", [0, 1])
def test_no_frame_after_the_first(length):
    frames = [jnp.ones((H, W, D))] * length
    assert list(propagate(frames, jnp.ones((H, W, 2)), Neighbours())) == []
