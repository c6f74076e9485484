"""Maps of the crops: where an image shows its classes, its crops show those of the map's crops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.views.maps import crop_map, crop_maps
from dinojax.views.params import sample_params
from dinojax.views.recipe import ViewRecipe
from dinojax.views.render import make_crops
from dinojax.views.resample import resized_crop

CANVAS_PX = 96
LEVELS = 16
"""Grey levels from one class to the next."""
PLAIN = ViewRecipe(
    global_crops_size=65,
    local_crops_size=33,
    local_crops_number=4,
    rgb_mean=(0.0,),
    rgb_std=(1.0,),
    jitter_probability=0.0,
    grey_probability=0.0,
    jitter_strengths=(0.0,) * 4,
    blur_probabilities=(0.0,) * 3,
    solarize_probabilities=(0.0,) * 3,
)

crop_both = jax.jit(
    jax.vmap(
        lambda image, map, box, flip, px: (
            resized_crop(image, box, px, flip=flip)[..., 0],
            crop_map(map, box, px, flip=flip),
        ),
        (None, None, 0, 0, None),
    ),
    static_argnums=4,
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
    """At fractional ratios, odd sizes and both flips, shrunk to a third or doubled."""
    map, some = classes(), boxes(40)
    flips = np.arange(40) % 2 == 1
    image = (map * np.uint8(LEVELS))[..., None]
    images, maps = crop_both(jnp.asarray(image), jnp.asarray(map), some, flips, out_px)
    assert maps.dtype == np.uint8
    check_agreement(np.asarray(images), np.asarray(maps))


@pytest.mark.parametrize("out_px", [16, 24, 35, 48, 96])
def test_maps_are_not_shifted(out_px):
    """A ramp of positions: at most half a pixel off anywhere, and not off on average.

    Among the boxes are whole ratios, at which the middle of a pixel is a border of others.
    """
    some = np.array([(0, 0, 96, 96), (9, 5, 48, 48), (1, 2, 70, 72), (30, 7, 53, 89)] * 2)
    flips = np.arange(len(some)) < 4
    for ramp in np.indices((CANVAS_PX, CANVAS_PX), np.float32):
        image, map = jnp.asarray(ramp[..., None]), jnp.asarray(ramp)
        images, maps = crop_both(image, map, some, flips, out_px)
        error = np.asarray(maps - images, float)
        edge = max(2, 3 * out_px // 48)  # there the filter is cut off, at both ends alike
        assert np.abs(error[:, edge:-edge, edge:-edge]).max() < 0.501
        assert np.abs(error.mean(axis=(1, 2))).max() < 0.02


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"localcrops_subset_of_globalcrops": True, "gram_teacher_crops_size": 80},
    ],
    ids=["anywhere", "subset"],
)
def test_every_crop_has_its_map(changes):
    """Of all crops that a recipe makes, also where the image takes a detour over larger ones."""
    recipe = dataclasses.replace(PLAIN, **changes)
    maps = jnp.asarray(np.stack([classes(1), classes(2)]))
    sizes = jnp.asarray([(96, 80), (71, 96)])
    keys = jax.random.split(jax.random.key(3), 2)

    @jax.jit
    def both(maps):
        params = jax.vmap(lambda key, hw: sample_params(key, hw, recipe))(keys, sizes)
        cut = jax.vmap(lambda map, params: crop_maps(map, params, recipe), out_axes=1)
        crops = make_crops((maps * LEVELS)[..., None].astype(jnp.uint8), sizes, keys, recipe)
        return crops, cut(maps, params)

    crops, cut = both(maps)
    assert cut.global_maps.shape == (2, 2, 65, 65) and cut.local_maps.shape == (4, 2, 33, 33)
    for image, map in zip(crops[:2], cut, strict=True):
        check_agreement(255 * np.asarray(image[..., 0]), np.asarray(map))


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
