"""Lists of crop sizes: one configuration each, chosen by the step."""

import numpy as np
import pytest

from dinojax.build.inputs import build_views
from dinojax.config import Config, default_config, parse_config
from dinojax.config.resolutions import SIZES, resolution_at, resolution_order, resolutions
from dinojax.config.shrink import shrink
from dinojax.config.validation import validate

RATIOS = (0.3, 0.3, 0.3, 0.05, 0.05)
"""Of DINOv3's high-resolution stage, with its five pairs of sizes."""
FIVE = {
    "global_crops_size": (512, 768, 768, 768, 768),
    "local_crops_size": (112, 112, 168, 224, 336),
    "global_local_crop_pairs_ratios": RATIOS,
}


def config(*, canvas_px: int = 64, **crops) -> Config:
    config = shrink(default_config())
    config.data.canvas_px = canvas_px
    config.update_from_flattened_dict({f"crops.{name}": value for name, value in crops.items()})
    return parse_config(config)


def test_one_resolution_is_the_configuration_itself():
    only = config()
    assert resolutions(only) == (only,) and resolutions(only)[0] is only
    assert resolution_order(only).at(10**9) == (0, 10**9)


def test_each_entry_is_a_configuration():
    several = resolutions(config(**FIVE))
    sizes = [(c.crops.global_crops_size, c.crops.local_crops_size) for c in several]
    assert sizes == [(512, 112), (768, 112), (768, 168), (768, 224), (768, 336)]
    assert {c.crops.global_local_crop_pairs_ratios for c in several} == {1.0}
    assert all(c.train == several[0].train for c in several)
    validate(config(**FIVE, canvas_px=768), batch_shards=1)


def test_a_single_value_holds_for_all():
    several = resolutions(config(local_crops_size=[32, 48]))
    sizes = [(c.crops.global_crops_size, c.crops.local_crops_size) for c in several]
    assert sizes == [(64, 32), (64, 48)]
    assert resolution_order(config(local_crops_size=[32, 48])).shares == (1.0, 1.0)


def test_gram_sizes_belong_to_their_resolution():
    """DINOv3's high-resolution stage as published: three lists, and the ratios beside them."""
    gram = (768, 1152, 1152, 1152, 1152)
    several = resolutions(config(**FIVE, gram_teacher_crops_size=gram))
    sizes = [[getattr(c.crops, name) for name in SIZES] for c in several]
    triples = zip(FIVE["global_crops_size"], FIVE["local_crops_size"], gram, strict=True)
    assert sizes == [list(triple) for triple in triples]
    assert [build_views(c).base_crop_px for c in several] == list(gram)
    one = resolutions(config(**FIVE, gram_teacher_crops_size=768))
    assert [c.crops.gram_teacher_crops_size for c in one] == [768] * 5


def test_steps_take_resolutions_by_ratio_and_seed():
    several = config(**FIVE)
    order = resolution_order(several)
    counts = np.array([order.counts(step) for step in range(1001)])
    assert np.abs(counts - np.arange(1001)[:, None] * RATIOS).max() < 4
    assert resolution_at(several, 5) == resolutions(several)[order.at(5)[0]]
    # No pattern that a log every 10 or 20 steps could fall in with.
    every_20 = [order.at(step)[0] for step in range(0, 2000, 20)]
    assert np.bincount(every_20, minlength=5)[:3].min() > 15


@pytest.mark.parametrize(
    ("crops", "words"),
    [
        (
            {"global_crops_size": (64, 80), "local_crops_size": (32, 48, 32)},
            "crops.global_crops_size has 2 and crops.local_crops_size has 3; give one value per",
        ),
        ({"global_crops_size": ()}, "crops.global_crops_size has 0"),
        ({"global_local_crop_pairs_ratios": (0.5, 0.5)}, "has no resolutions to choose from"),
        (
            {"local_crops_size": (32, 48), "global_local_crop_pairs_ratios": (1.0, 0.0)},
            r"ratios=\(1.0, 0.0\) must all be above 0",
        ),
        ({"global_crops_size": (64, 65)}, "crops.global_crops_size=65 is not a multiple"),
        ({"local_crops_size": (32, 15)}, "crops.local_crops_size=15 is smaller than patch_size=16"),
        ({"gram_teacher_crops_size": (64, 80)}, "crops.gram_teacher_crops_size=64 is for Gram"),
    ],
)
def test_impossible_lists(crops, words):
    with pytest.raises(ValueError, match=words):
        validate(config(**crops), batch_shards=1)


@pytest.mark.parametrize("value", ["64", (64, "80"), 64.0])
def test_wrong_types(value):
    with pytest.raises(ValueError, match=r"crops\.global_crops_size.* has the wrong type"):
        config(global_crops_size=value)
