"""Contradictory recipes are refused with a way out."""

import pytest

from dinojax.views.recipe import ViewRecipe, validate, without_rgb_operations

MONO = {"rgb_mean": (0.5,), "rgb_std": (0.2,)}
COLOURLESS = {"jitter_strengths": (0.4, 0.4, 0.0, 0.0), "grey_probability": 0.0}


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (3, {}),
        (3, {"gram_teacher_crops_size": 224, "gram_teacher_no_distortions": True}),
        (3, {"localcrops_subset_of_globalcrops": True}),
        (1, MONO | COLOURLESS),
    ],
)
def test_accepted(channels, options):
    validate(ViewRecipe(**options), channels)


@pytest.mark.parametrize(
    ("channels", "options", "message"),
    [
        (1, {}, r"crops\.rgb_mean=.* has 3 values for images of 1 channels"),
        (3, {"rgb_std": (0.2,)}, r"crops\.rgb_std=\(0\.2,\) has 1 values"),
        (1, MONO, r"images of 1 channels do not have; use without_rgb_operations\(recipe\)"),
        (1, MONO | COLOURLESS | {"grey_probability": 0.2}, r"crops\.grey_probability change"),
        (3, {"local_crops_number": -1}, r"local_crops_number=-1 must be at least 0"),
        (3, {"gram_teacher_no_distortions": True}, r"set crops\.gram_teacher_crops_size"),
        (3, {"localcrops_subset_of_globalcrops": True, "local_crops_number": 7}, "odd.*use 8"),
        (
            3,
            {"teacher_no_color_jitter": True, "share_color_jitter": True},
            "contradicts share_color_jitter=True",
        ),
        (
            3,
            {"localcrops_subset_of_globalcrops": True, "local_crops_size": 216},
            "use at most 208",
        ),
    ],
)
def test_refused(channels, options, message):
    with pytest.raises(ValueError, match=message):
        validate(ViewRecipe(**options), channels)


def test_advice_works():
    """What the errors recommend is accepted."""
    subset = {"localcrops_subset_of_globalcrops": True}
    validate(ViewRecipe(**subset, local_crops_size=208), 3)
    validate(ViewRecipe(**subset, local_crops_number=8), 3)
    validate(ViewRecipe(gram_teacher_no_distortions=True, gram_teacher_crops_size=224), 3)


def test_bands_keep_the_operations_that_need_no_colour():
    recipe = ViewRecipe(rgb_mean=(0.5,) * 7, rgb_std=(0.2,) * 7)
    bands = without_rgb_operations(recipe)
    validate(bands, 7)
    assert bands.jitter_strengths == (0.4, 0.4, 0.0, 0.0) and bands.grey_probability == 0
    for name in ("jitter_probability", "blur_probabilities", "solarize_probabilities", "rgb_mean"):
        assert getattr(bands, name) == getattr(recipe, name)


def test_base_crop_is_the_larger_of_global_and_gram():
    assert ViewRecipe().base_crop_px == 224
    assert ViewRecipe(gram_teacher_crops_size=336).base_crop_px == 336
    assert ViewRecipe(gram_teacher_crops_size=112).base_crop_px == 224
