"""Choices in words: every number from its own field, neutral values for what is not applied."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from dinojax.views.describe import FACTORS, describe
from dinojax.views.params import CropParams, sample_params
from dinojax.views.recipe import ViewRecipe

RECIPE = ViewRecipe(global_crops_size=64, local_crops_size=32, local_crops_number=4)


def drawn(recipe: ViewRecipe, seed: int = 0) -> CropParams:
    return jax.device_get(sample_params(jax.random.key(seed), jnp.array([90, 120]), recipe))


@pytest.mark.slow
def test_every_view_has_its_own_choices():
    params = drawn(RECIPE)
    views = describe(params, RECIPE)
    assert json.loads(json.dumps(views)) == views
    names = [f"global {i}" for i in (1, 2)] + [f"local {i}" for i in (1, 2, 3, 4)]
    assert [view["view"] for view in views] == names
    assert {view["within"] for view in views} == {"image"}
    boxes = [*params.global_geometry.box.tolist(), *params.local_geometry.box.tolist()]
    assert [view["box"] for view in views] == boxes
    flips = [*params.global_geometry.flip.tolist(), *params.local_geometry.flip.tolist()]
    assert [view["flip"] for view in views] == flips
    first, second, local = params.photometric
    for view, colour in zip(views[:2], (first.colour, second.colour), strict=True):
        assert [view[name] for name in FACTORS] == colour.factors.tolist()
        assert view["order"] == [FACTORS[i] for i in colour.order] and view["grey"] == colour.grey
    for i, view in enumerate(views[2:]):
        assert [view[name] for name in FACTORS] == local.colour.factors[i].tolist()
        assert view["order"] == [FACTORS[k] for k in local.colour.order[i]]
        assert view["grey"] == local.colour.grey[i]
    sigmas = [0.0, float(second.blur_sigma), *local.blur_sigma.tolist()]
    assert [view["blur_sigma"] for view in views] == sigmas
    assert [view["solarize"] for view in views] == [False, bool(second.solarize), *[False] * 4]


@pytest.mark.slow
def test_one_colour_for_all():
    recipe = dataclasses.replace(RECIPE, share_color_jitter=True, jitter_probability=1.0)
    params = drawn(recipe)
    for view in describe(params, recipe):
        assert [view[name] for name in FACTORS] == params.shared_colour.factors.tolist()


def test_local_crops_that_are_parts_of_global_ones():
    recipe = dataclasses.replace(RECIPE, localcrops_subset_of_globalcrops=True)
    params = drawn(recipe)
    views = describe(params, recipe)
    assert [view["within"] for view in views] == [
        *("image", "image", "global 1", "global 1", "global 2", "global 2")
    ]
    assert [view["box"] for view in views[2:]] == params.local_geometry.box.tolist()
    assert not any(view["flip"] for view in views[2:])


@pytest.mark.parametrize("seed", range(3))
def test_what_is_never_applied_is_neutral(seed):
    recipe = dataclasses.replace(
        RECIPE,
        horizontal_flips=False,
        jitter_probability=0.0,
        grey_probability=0.0,
        blur_probabilities=(0.0, 0.0, 0.0),
        solarize_probabilities=(0.0, 0.0, 0.0),
    )
    for view in describe(drawn(recipe, seed), recipe):
        assert [view[name] for name in FACTORS] == [1, 1, 1, 0] and view["order"] == [*FACTORS]
        assert not (view["flip"] or view["grey"] or view["blur_sigma"] or view["solarize"])
