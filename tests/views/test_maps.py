"""Maps of crops: where an image shows its classes, its crops show those of the map's crops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.views.maps import crop_map
from dinojax.views.resample import resized_crop

CANVAS_PX = 96
LEVELS = 16
"""Grey levels from one class to the next."""
crop_both = jax.jit(
    jax.vmap(
        lambda image, map, box, px: (
            resized_crop(image, box, px)[..., 0],
            crop_map(map, box, px),
        ),
        (None, None, 0, None),
    ),
    static_argnums=3,
)


def classes(seed: int = 0) -> np.ndarray:
    """Sixteen classes, ascending along both axes so that no border is a cliff, of any extent."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.sort(rng.integers(0, 4, CANVAS_PX)) for _ in range(2))
    return (4 * rows[:, None] + columns).astype(np.uint8)


def boxes(count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    sides = rng.integers(20, CANVAS_PX + 1, (count, 2))
    return np.concatenate([rng.integers(0, CANVAS_PX + 1 - sides), sides], axis=1)


def check_agreement(image: np.ndarray, map: np.ndarray) -> None:
    """Of the class that an image shows and the map's, but for 3 px along borders and edges."""
    around = np.lib.stride_tricks.sliding_window_view(map, (7, 7), axis=(-2, -1))
    inside = around.max((-2, -1)) == around.min((-2, -1))
    assert inside.mean() > 0.3
    image, map = (x[..., 3:-3, 3:-3][inside] for x in (image, map))
    np.testing.assert_array_equal(np.rint(image / LEVELS), map)


@pytest.mark.parametrize("out_px", [32, 45])
def test_crops_of_image_and_map_agree(out_px):
    """At fractional ratios and odd sizes, shrunk to a third or doubled."""
    map, some = classes(), boxes(40)
    image = (map * np.uint8(LEVELS))[..., None]
    images, maps = crop_both(jnp.asarray(image), jnp.asarray(map), some, out_px)
    assert maps.dtype == np.uint8
    check_agreement(np.asarray(images), np.asarray(maps))


@pytest.mark.parametrize("out_px", [16, 24, 35, 48, 96])
def test_maps_are_not_shifted(out_px):
    """A ramp of positions: at most half a pixel off anywhere, and not off on average.

    Among the boxes are whole ratios, at which the middle of a pixel is a border of others.
    """
    some = np.array([(0, 0, 96, 96), (9, 5, 48, 48), (1, 2, 70, 72), (30, 7, 53, 89)])
    for ramp in np.indices((CANVAS_PX, CANVAS_PX), np.float32):
        image, map = jnp.asarray(ramp[..., None]), jnp.asarray(ramp)
        images, maps = crop_both(image, map, some, out_px)
        error = np.asarray(maps - images, float)
        edge = max(2, 3 * out_px // 48)  # there the filter is cut off, at both ends alike
        assert np.abs(error[:, edge:-edge, edge:-edge]).max() < 0.501
        assert np.abs(error.mean(axis=(1, 2))).max() < 0.02


def test_depth_is_never_invented():
    """Metres as they are, and the unknown where it is."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 9, (CANVAS_PX, CANVAS_PX)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.3] = 0
    crop = jax.jit(jax.vmap(lambda map, box: crop_map(map, box, 45), (None, 0)))
    cut = np.asarray(crop(jnp.asarray(depth), boxes(8)))
    assert cut.dtype == np.float32
    assert np.isin(cut, depth).all()
    np.testing.assert_array_equal(cut == 0, crop(jnp.asarray(depth == 0), boxes(8)))
    assert 0.25 < (cut == 0).mean() < 0.35
