"""What the published dense protocols differ in."""

import dataclasses

import pytest
from test_eval_configs import config

from dinojax.evaluation.depth_views import DepthViews


def test_heads_of_both_systems():
    third, second, several = (
        config(f"ade20k{name}").segmentation.linear for name in ("", ":dinov2", ":dinov2_ms")
    )
    assert (third.schedule, third.weight_decay, third.dropout) == ("one_cycle", 1e-3, 0.1)
    assert (second.schedule, second.weight_decay, second.dropout) == ("poly", 1e-4, 0.0)
    first, last = dataclasses.asdict(second), dataclasses.asdict(several)
    changed = {"layers", "crop_px", "stride_px", "test_scales", "test_flip"}
    assert {key for key in first if first[key] != last[key]} == changed


def test_nyu_crops_fit_into_their_frame():
    depth = config("nyuv2").depth
    assert depth.frame_hw and depth.train_box and depth.crop_hw
    views = DepthViews(depth.frame_hw, depth.train_box, depth.crop_hw)
    assert views == DepthViews()  # whose defaults are NYU's


@pytest.mark.parametrize(
    ("name", "value"),
    [("ade20k", 0.470), ("ade20k:dinov2_ms", 0.472), ("nyuv2", 0.403), ("davis", 0.727)],
)
def test_published_scores_of_the_smallest(name, value):
    assert config(name).published[0][2] == value
