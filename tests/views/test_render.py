"""Crops as a whole: against a float64 oracle, and as a function of each image alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adjustments import adjust
from jax.extend.core import jaxprs_in_params
from pixels import assert_same_pixels

from dinojax.views import colour
from dinojax.views.blur import gaussian_blur
from dinojax.views.colour import normalise
from dinojax.views.params import sample_params
from dinojax.views.recipe import ViewRecipe, without_rgb_operations
from dinojax.views.render import make_crops
from dinojax.views.resample import resize, resized_crop

CANVAS_PX = 64
RECIPE = ViewRecipe(global_crops_size=48, local_crops_size=16, local_crops_number=4)
PLAIN = dataclasses.replace(
    RECIPE,
    jitter_probability=0.0,
    grey_probability=0.0,
    blur_probabilities=(0.0, 0.0, 0.0),
    solarize_probabilities=(0.0, 0.0, 0.0),
)
"""Geometry only."""


def batch(size: int = 3, channels: int = 3):
    rng = np.random.default_rng(0)
    canvas = rng.integers(0, 256, (size, 8, 8, channels), np.uint8).repeat(8, 1).repeat(8, 2)
    canvas[canvas == 128] = 0  # no flat areas on the threshold of solarize
    size_hw = rng.integers(30, CANVAS_PX + 1, (size, 2))
    keys = jax.random.split(jax.random.key(17), size)
    return jnp.asarray(canvas), jnp.asarray(size_hw, jnp.int32), keys


make = jax.jit(make_crops, static_argnums=3, static_argnames="dtype")
sample = jax.jit(sample_params, static_argnums=2)
cut = jax.jit(resized_crop, static_argnums=2)
blurred = jax.jit(gaussian_blur)


@pytest.fixture(scope="module")
def together():
    return make(*batch(), RECIPE)


def test_shapes_and_dtype(together):
    assert together.global_crops.shape == (2, 3, 48, 48, 3)
    assert together.local_crops.shape == (4, 3, 16, 16, 3)
    assert together.gram_crops is None
    assert together.global_crops.dtype == jnp.float32


def test_images_do_not_see_each_other(together):
    """Another batch size, order and padding: the same crops of the same image."""
    canvas, size_hw, keys = batch(3)
    inside = [jnp.arange(CANVAS_PX) < size_hw[:, i : i + 1] for i in range(2)]
    content = (inside[0][:, :, None] & inside[1][:, None, :])[..., None]
    chosen = jnp.asarray([2, 0])
    repadded = jnp.where(content, canvas, 255 - canvas)
    alone = make(repadded[chosen], size_hw[chosen], keys[chosen], RECIPE)
    for a, b in zip(alone[:2], together[:2], strict=True):
        np.testing.assert_allclose(a, b[:, chosen], atol=1e-4)
    assert np.abs(together.global_crops[0, 0] - together.global_crops[1, 0]).max() > 0.1


def equations(jaxpr) -> int:
    """Of a program and of all programs in it."""
    inner = (sub for eqn in jaxpr.eqns for sub in jaxprs_in_params(eqn.params))
    return len(jaxpr.eqns) + sum(map(equations, inner))


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher_no_color_jitter": True},
        {
            "share_color_jitter": True,
            "localcrops_subset_of_globalcrops": True,
            "gram_teacher_crops_size": 64,
        },
    ],
)
def test_no_image_has_a_program_of_its_own(changes):
    """Sixty-four images make no more equations than two."""
    recipe = dataclasses.replace(RECIPE, **changes)

    def program(size: int):
        canvas = jax.ShapeDtypeStruct((size, CANVAS_PX, CANVAS_PX, 3), jnp.uint8)
        size_hw = jax.ShapeDtypeStruct((size, 2), jnp.int32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))
        return jax.make_jaxpr(make_crops, static_argnums=3)(canvas, size_hw, keys, recipe)

    few, many = program(2), program(64)
    assert many.out_avals[0].shape == (2, 64, 48, 48, 3)
    assert equations(few.jaxpr) == equations(many.jaxpr) > 500


def test_shared_colour_ignores_the_padding():
    canvas, size_hw, keys = batch(2)
    recipe = dataclasses.replace(PLAIN, share_color_jitter=True, jitter_probability=1.0)
    size_hw = jnp.minimum(size_hw, 40)
    padded = canvas.at[:, 40:].set(255).at[:, :, 40:].set(0)
    np.testing.assert_allclose(
        make(canvas, size_hw, keys, recipe).global_crops,
        make(padded, size_hw, keys, recipe).global_crops,
        atol=1e-4,
    )


def test_float64_views_of_the_same_choices(together):
    with jax.enable_x64(True):
        wide = make(*batch(), RECIPE, dtype=jnp.float64)
    assert wide.global_crops.dtype == np.float64
    # One grey level is about 0.017; solarize jumps at its threshold, so a pixel there may differ.
    for a, b in zip(together[:2], wide[:2], strict=True):
        error = np.abs(np.asarray(a) - np.asarray(b))
        assert np.quantile(error, 0.999) < 1e-4


def test_order_of_the_chain_against_single_operations(together):
    """Global crops rebuilt from their choices, one public operation after the other."""
    canvas, size_hw, keys = batch()
    params = jax.jit(jax.vmap(lambda k, s: sample_params(k, s, RECIPE)))(keys, size_hw)
    seen = np.zeros(4, int)
    for image in range(3):
        for view in range(2):
            box, flip = (leaf[image, view] for leaf in params.global_geometry)
            chain = jax.tree.map(lambda leaf, i=image: leaf[i], params.photometric[view])
            crop = cut(canvas[image].astype(float), box, 48)
            crop = crop[:, ::-1] if flip else crop
            for operation in np.asarray(chain.colour.order):
                crop = adjust(crop, operation, chain.colour.factors[operation])
            if chain.colour.grey:
                crop = jnp.broadcast_to(colour.to_grey(crop), crop.shape)
            if blurred := chain.blur_sigma is not None and chain.blur_sigma > 0:
                crop = gaussian_blur(crop, chain.blur_sigma)
            if solarized := chain.solarize is not None and chain.solarize:
                crop = colour.solarize(crop)
            seen += [bool(x) for x in (flip, chain.colour.grey, blurred, solarized)]
            expected = (np.asarray(crop) / 255 - RECIPE.rgb_mean) / RECIPE.rgb_std
            error = np.abs(expected - together.global_crops[view, image])
            assert np.quantile(error, 0.999) < 1e-4
    assert (seen > 0).all() and (seen < 6).all(), "use a seed in which each operation occurs"


def test_normalise():
    value = normalise(jnp.asarray([[[0.0, 255.0, 51.0]]]), RECIPE.rgb_mean, RECIPE.rgb_std)
    expected = (np.array([0, 1, 0.2]) - RECIPE.rgb_mean) / RECIPE.rgb_std
    np.testing.assert_allclose(value[0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(("global_px", "gram_px"), [(32, 48), (48, 32)])
def test_undistorted_gram_crops(global_px, gram_px):
    """Both are plain resizes of one cut at the larger size, whatever is done to the global crop."""
    recipe = dataclasses.replace(
        PLAIN,
        solarize_probabilities=(1.0, 1.0, 0.0),
        global_crops_size=global_px,
        gram_teacher_crops_size=gram_px,
        gram_teacher_no_distortions=True,
    )
    canvas, size_hw, keys = batch(1)
    crops = make(canvas, size_hw, keys, recipe)
    params = sample(keys[0], size_hw[0], recipe)
    whole = jnp.asarray((0, 0, 48, 48))
    for view in range(2):
        box, flip = (leaf[view] for leaf in params.global_geometry)
        base = cut(canvas[0].astype(float), box, 48, flip=flip)
        gram, student = (cut(base, whole, px) for px in (gram_px, global_px))
        np.testing.assert_allclose(
            crops.gram_crops[view, 0], normalise(gram, recipe.rgb_mean, recipe.rgb_std), atol=1e-4
        )
        error = np.abs(
            normalise(colour.solarize(student), recipe.rgb_mean, recipe.rgb_std)
            - crops.global_crops[view, 0]
        )
        assert np.quantile(error, 0.999) < 1e-4


def test_distorted_gram_crops_share_the_distortions():
    recipe = dataclasses.replace(PLAIN, jitter_probability=1.0, gram_teacher_crops_size=64)
    crops = make(*batch(1), recipe)
    for view in range(2):
        smaller = jax.jit(resize, static_argnums=1)(crops.gram_crops[view, 0], (48, 48))
        np.testing.assert_allclose(crops.global_crops[view, 0], smaller, atol=1e-4)


@pytest.mark.parametrize("gram_px", [None, 64])
def test_local_crops_out_of_global_ones(gram_px):
    """Windows of the global crops before the student's distortions, each after a whole one's own.

    As in the reference they come from the larger cut where Gram crops are larger.
    """
    recipe = dataclasses.replace(
        PLAIN,
        localcrops_subset_of_globalcrops=True,
        gram_teacher_crops_size=gram_px,
        blur_probabilities=(0.0, 0.0, 1.0),
        solarize_probabilities=(1.0, 1.0, 0.0),
    )
    canvas, size_hw, keys = batch(2)
    crops = make(canvas, size_hw, keys, recipe)
    for image in range(2):
        params = sample(keys[image], size_hw[image], recipe)
        for view, (top, left, height, width) in enumerate(np.asarray(params.local_geometry.box)):
            box, flip = (leaf[view // 2] for leaf in params.global_geometry)
            base = cut(canvas[image].astype(float), box, recipe.base_crop_px, flip=flip)
            whole = blurred(base, params.photometric[2].blur_sigma[view])
            window = normalise(whole, recipe.rgb_mean, recipe.rgb_std)[
                top : top + height, left : left + width
            ]
            np.testing.assert_allclose(crops.local_crops[view, image], window, atol=1e-4)


@pytest.mark.parametrize(
    "channels", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 7))]
)
def test_bands(channels):
    """Brightness, contrast, blur and solarize on any number of channels, and nothing else."""
    statistics = {"rgb_mean": (0.4,) * channels, "rgb_std": (0.2,) * channels}
    recipe = dataclasses.replace(
        RECIPE, **statistics, jitter_probability=1.0, solarize_probabilities=(0.0, 1.0, 0.0)
    )
    canvas, size_hw, keys = batch(1, channels=channels)
    crops = make(canvas, size_hw, keys, without_rgb_operations(recipe))
    assert crops.local_crops.shape == (4, 1, 16, 16, channels)
    params = sample(keys[0], size_hw[0], without_rgb_operations(recipe))
    for view in range(2):
        box, flip = (leaf[view] for leaf in params.global_geometry)
        chain = params.photometric[view]
        crop = cut(canvas[0].astype(float), box, 48, flip=flip)
        operations = [op for op in np.asarray(chain.colour.order) if op < colour.SATURATION]
        for operation in operations:
            crop = adjust(crop, operation, chain.colour.factors[operation])
        if chain.blur_sigma is not None:
            crop = gaussian_blur(crop, chain.blur_sigma)
        if chain.solarize is not None:
            crop = colour.solarize(crop)
        error = np.abs((np.asarray(crop) / 255 - 0.4) / 0.2 - crops.global_crops[view, 0])
        assert np.quantile(error, 0.999) < 1e-4
    with pytest.raises(ValueError, match="one per channel"):
        make_crops(canvas, size_hw, keys, RECIPE)


@pytest.mark.parametrize("gram_px", [None, pytest.param(64, marks=pytest.mark.slow)])
def test_teacher_without_jitter(gram_px):
    """The student's boxes and flips; none of its distortions, of whatever kind."""
    recipe = dataclasses.replace(RECIPE, gram_teacher_crops_size=gram_px)
    inputs = batch(3)
    jittered = make(*inputs, recipe)
    spared = make(*inputs, dataclasses.replace(recipe, teacher_no_color_jitter=True))
    geometry_only = dataclasses.replace(
        PLAIN, gram_teacher_crops_size=gram_px, gram_teacher_no_distortions=gram_px is not None
    )
    plain = make(*inputs, geometry_only)
    assert jittered.teacher_crops is None
    np.testing.assert_allclose(spared.teacher_crops, plain.global_crops, atol=1e-4)
    assert_same_pixels(spared.global_crops, jittered.global_crops)
    assert np.abs(spared.teacher_crops - spared.global_crops).mean() > 0.1
