"""Every random choice behind the views of one image, drawn before any pixel is touched.

Choices are a pytree of arrays, so that they can be inspected, stored or replaced by recorded ones.
A field that is None is an operation this recipe never applies.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dinojax.prng import slot_keys
from dinojax.typing import Array, Bool, Float, Int, Key
from dinojax.views.boxes import BOX_DRAWS, choose_box
from dinojax.views.colour import HUE, IDENTITY
from dinojax.views.draws import between, coin, draw, integer_to
from dinojax.views.recipe import OFFSET_PX, ViewRecipe

Unit = dict[str, Float[Array, " n"]]
"""Uniform numbers in [0, 1) by name."""

COLOUR_DRAWS = {"jitter": 1, "factors": 4, "order": 4, "grey": 1}
VIEW_DRAWS = BOX_DRAWS | COLOUR_DRAWS | {"flip": 1, "blur": 1, "sigma": 1, "solarize": 1}
"""All that one crop needs, whatever the recipe uses of it."""


class Colour(NamedTuple):
    """Colour jitter and greyscale."""

    factors: Float[Array, "*v 4"]
    """Brightness, contrast, saturation, hue; (1, 1, 1, 0) where the jitter is not applied."""
    order: Int[Array, "*v 4"]
    """Which of the four comes first, second, third, last."""
    grey: Bool[Array, "*v"]


class Photometric(NamedTuple):
    """Distortions of a crop, in the order of application."""

    colour: Colour | None
    blur_sigma: Float[Array, "*v"] | None
    """Pixels; 0 where the blur is not applied."""
    solarize: Bool[Array, "*v"] | None


class Geometry(NamedTuple):
    """Which part of the image a crop shows."""

    box: Int[Array, "*v 4"]
    """Top, left, height, width: pixels of the canvas, or of the global crop that it is a subset of,
    as that is cut (`base_crop_px`)."""
    flip: Bool[Array, "*v"] | None


class CropParams(NamedTuple):
    """The choices behind all crops of one image."""

    shared_colour: Colour | None
    """Applied to the image before anything is cut."""
    global_geometry: Geometry
    local_geometry: Geometry
    photometric: tuple[Photometric, Photometric, Photometric]
    """Of global crop 1, global crop 2 and, with a leading axis, the local crops."""


def sample_params(key: Key, size_hw: Int[Array, "2"], recipe: ViewRecipe) -> CropParams:
    """Draw the choices of one image of ``size_hw`` pixels (height, width).

    Reference: DINOv3 `DataAugmentationDINO`. A function of `key` alone: each crop draws from
    its own key (global 1, global 2, local 1, ...), so it is the same however many crops, images or
    devices there are.
    """
    shared_key, view_key = jax.random.split(key)
    view_keys = slot_keys(view_key, 2 + recipe.local_crops_number)
    unit = jax.vmap(lambda k: draw(k, **VIEW_DRAWS))(view_keys)
    first, second, both, local = (
        jax.tree.map(lambda x, part=part: x[part], unit)
        for part in (0, 1, slice(0, 2), slice(2, None))
    )

    def in_image(scale: tuple[float, float]) -> Callable[[Unit], Geometry]:
        return lambda unit: Geometry(
            choose_box(unit, size_hw, scale),
            coin(unit["flip"], 0.5) if recipe.horizontal_flips else None,
        )

    def in_global_crop(unit: Unit) -> Geometry:
        side = recipe.local_crops_size
        # As in the reference the last place is never taken, nor is the flip drawn again.
        last = (recipe.global_crops_size - side) // OFFSET_PX - 1
        corner = OFFSET_PX * integer_to(unit["offset"], last)
        return Geometry(jnp.concatenate([corner, jnp.full_like(corner, side)]), flip=None)

    subset = recipe.localcrops_subset_of_globalcrops
    place_local = in_global_crop if subset else in_image(recipe.local_crops_scale)
    shared = recipe.share_color_jitter
    return CropParams(
        shared_colour=_colour(draw(shared_key, **COLOUR_DRAWS), recipe) if shared else None,
        global_geometry=jax.vmap(in_image(recipe.global_crops_scale))(both),
        local_geometry=jax.vmap(place_local)(local),
        photometric=(
            _photometric(first, recipe, 0),
            _photometric(second, recipe, 1),
            jax.vmap(lambda unit: _photometric(unit, recipe, 2))(local),
        ),
    )


def _photometric(unit: Unit, recipe: ViewRecipe, kind: int) -> Photometric:
    blurred, solarized = recipe.blur_probabilities[kind], recipe.solarize_probabilities[kind]
    sigma = between(unit["sigma"][0], *recipe.blur_sigma)
    return Photometric(
        colour=None if recipe.share_color_jitter else _colour(unit, recipe),
        blur_sigma=jnp.where(coin(unit["blur"], blurred), sigma, 0) if blurred else None,
        solarize=coin(unit["solarize"], solarized) if solarized else None,
    )


def _colour(unit: Unit, recipe: ViewRecipe) -> Colour | None:
    if not recipe.jitter_probability and not recipe.grey_probability:
        return None
    identity = jnp.asarray(IDENTITY, unit["factors"].dtype)
    strengths = jnp.asarray(recipe.jitter_strengths, identity.dtype)
    # A factor is never negative (torchvision), a turn of the hue may be.
    low = jnp.where(jnp.arange(4) == HUE, -strengths, jnp.maximum(identity - strengths, 0))
    factors = between(unit["factors"], low, identity + strengths)
    return Colour(
        factors=jnp.where(coin(unit["jitter"], recipe.jitter_probability), factors, identity),
        order=jnp.argsort(unit["order"]).astype(jnp.int32),
        grey=coin(unit["grey"], recipe.grey_probability),
    )
