"""Choices: ranges, absent operations, and dependence on the image's own key only."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.views.colour import IDENTITY
from dinojax.views.params import sample_params
from dinojax.views.recipe import ViewRecipe

RECIPE = ViewRecipe(global_crops_size=64, local_crops_size=32, local_crops_number=4)
SIZE = jnp.asarray((60, 80), jnp.int32)


DRAWS = 2000


@functools.cache
def draw(**changes):
    recipe = dataclasses.replace(RECIPE, **changes)
    keys = jax.random.split(jax.random.key(0), DRAWS)
    return jax.jit(jax.vmap(lambda k: sample_params(k, SIZE, recipe)))(keys)


def test_ranges():
    colour = draw(grey_probability=0.0, jitter_probability=1.0).photometric[2].colour
    factors = np.asarray(colour.factors).reshape(-1, 4)
    np.testing.assert_allclose(factors.min(axis=0), (0.6, 0.6, 0.8, -0.1), atol=2e-3)
    np.testing.assert_allclose(factors.max(axis=0), (1.4, 1.4, 1.2, 0.1), atol=2e-3)
    assert (np.sort(colour.order, axis=-1) == np.arange(4)).all()
    orders, counts = np.unique(colour.order.reshape(-1, 4), axis=0, return_counts=True)
    assert len(orders) == 24
    assert np.abs(counts - 4 * DRAWS / 24).max() < 5 * np.sqrt(4 * DRAWS / 24)


def test_odds():
    """Of every operation, as the recipe says."""
    params = draw()
    happened = [(params.global_geometry.flip, 0.5), (params.local_geometry.flip, 0.5)]
    chains = zip(
        params.photometric, RECIPE.blur_probabilities, RECIPE.solarize_probabilities, strict=True
    )
    for chain, blur, solarize in chains:
        jittered = (chain.colour.factors != jnp.asarray(IDENTITY)).any(axis=-1)
        happened += [(jittered, RECIPE.jitter_probability)]
        happened += [(chain.colour.grey, RECIPE.grey_probability)]
        happened += [(chain.blur_sigma > 0, blur)] if blur else []
        happened += [(chain.solarize, solarize)] if solarize else []
    assert len(happened) == 2 + 3 * 2 + 2 + 1
    for mask, odds in happened:
        assert abs(mask.mean() - odds) < 5 * np.sqrt(odds * (1 - odds) / mask.size)


def test_certain_operations_and_strong_jitter():
    first, _, local = draw(
        jitter_probability=1.0,
        jitter_strengths=(2.0, 2.0, 2.0, 0.5),
        grey_probability=1.0,
        blur_probabilities=(1.0, 0.0, 1.0),
    ).photometric
    assert first.colour.grey.all() and local.colour.grey.all()
    assert (first.blur_sigma >= 0.1).all() and (local.blur_sigma < 2.0).all()
    factors = np.asarray(first.colour.factors)
    assert factors[:, :3].min() >= 0 and factors[:, :3].max() > 2.9
    assert factors[:, 3].min() < -0.49 and factors[:, 3].max() > 0.49


def test_impossible_operations():
    subset = draw(localcrops_subset_of_globalcrops=True, jitter_probability=0.0)
    assert (subset.photometric[0].colour.factors == jnp.asarray(IDENTITY)).all()
    certain = draw(grey_probability=0.0, jitter_probability=1.0).photometric[2].colour
    assert not certain.grey.any() and (certain.factors != jnp.asarray(IDENTITY)).all()


def test_what_is_never_applied_is_absent():
    def absent(**changes):
        recipe = dataclasses.replace(RECIPE, **changes)
        return jax.eval_shape(lambda k: sample_params(k, SIZE, recipe), jax.random.key(0))

    params = absent(horizontal_flips=False, share_color_jitter=True)
    first, second, local = params.photometric
    assert first.blur_sigma is None and first.solarize is None and local.solarize is None
    assert second.blur_sigma is not None and second.solarize is not None
    assert params.global_geometry.flip is None and params.local_geometry.flip is None
    assert params.shared_colour is not None
    assert first.colour is None and second.colour is None and local.colour is None
    assert absent().shared_colour is None
    colourless = absent(jitter_probability=0.0, grey_probability=0.0)
    assert all(chain.colour is None for chain in colourless.photometric)


def test_choices_are_independent_of_each_other():
    """No two scalars of an image share random bits: none of them correlate."""
    params = draw(
        jitter_probability=0.5,
        grey_probability=0.5,
        blur_probabilities=(0.5,) * 3,
        solarize_probabilities=(0.5,) * 3,
    )
    geometries = (params.global_geometry, params.local_geometry)
    columns = [x for box, flip in geometries for x in (box[..., 0], flip)]
    for chain in params.photometric:
        factors, order, grey = chain.colour
        jittered = (factors != jnp.asarray(IDENTITY)).any(axis=-1)
        columns += [jittered, factors, order[..., 0], grey, chain.blur_sigma, chain.solarize]
    columns = [np.asarray(c, float).reshape(DRAWS, -1) for c in columns]
    correlation = np.corrcoef(np.concatenate(columns, axis=1), rowvar=False)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 5.5 / np.sqrt(DRAWS)


def test_more_local_crops_leave_the_first_ones_alone():
    few, many = draw(), draw(local_crops_number=7)
    for a, b in zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True):
        np.testing.assert_array_equal(a, b[:, : a.shape[1]] if a.shape != b.shape else b)


def test_choices_do_not_depend_on_64_bit_mode():
    narrow = draw()
    with jax.enable_x64(True):
        wide = draw.__wrapped__()
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("gram_px", [None, 128])
def test_subset_boxes_are_aligned_and_never_reach_the_end(gram_px):
    """Of the global crop's size, also where the base that they are cut from is a larger one."""
    subset = draw(localcrops_subset_of_globalcrops=True, gram_teacher_crops_size=gram_px)
    boxes = np.asarray(subset.local_geometry.box)
    assert (boxes[..., 2:] == RECIPE.local_crops_size).all()
    assert set(np.unique(boxes[..., :2])) == {0, 16}
