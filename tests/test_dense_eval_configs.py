"""The published dense protocols as configurations: they parse, and name what exists."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from dinojax.config_eval import parse_config
from dinojax.data.layouts.table import LAYOUTS
from dinojax.evaluation.depth_views import DepthViews
from dinojax.models.presets import PRESETS
from dinojax.tasks.table import TASKS

FOLDER = Path(__file__).parent.parent / "configs" / "eval"


def load(name: str, *args: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return parse_config(module.get_config(*args))


@pytest.mark.parametrize(
    ("name", "args", "layout", "published"),
    [
        ("ade20k", (), "ade20k", {"vits16": 0.470, "vit7b16": 0.559}),
        ("ade20k", ("dinov2",), "ade20k", {"vits14": 0.443, "vitg14": 0.490}),
        ("ade20k", ("dinov2_ms",), "ade20k", {"vits14": 0.472, "vitg14": 0.530}),
        ("nyuv2", (), "nyuv2", {"vits16": 0.403, "vit7b16": 0.309}),
        ("davis", (), "davis", {"vits16": 0.727, "vit7b16": 0.797}),
        ("scenes", (), None, {}),
    ],
)
def test_files(name, args, layout, published):
    config = load(name, *args)
    assert config.records.layout == layout and (layout is None or layout in LAYOUTS)
    assert set(config.tasks) <= set(TASKS)
    shown = {arch: value for arch, _, value, _ in config.published}
    assert published.items() <= shown.items() and shown.keys() <= PRESETS.keys()
    assert all(metric.split("_")[0] in config.tasks for _, metric, _, _ in config.published)
    if layout is not None:
        assert config.records.max_train == config.records.max_test == 0  # all of them


def test_protocols():
    """What the two systems' heads differ in."""
    third = load("ade20k").segmentation.linear
    second, several = (load("ade20k", name).segmentation.linear for name in ("dinov2", "dinov2_ms"))
    assert (third.schedule, third.weight_decay, third.dropout) == ("one_cycle", 1e-3, 0.1)
    assert (second.schedule, second.weight_decay, second.dropout) == ("poly", 1e-4, 0.0)
    changed = {"layers", "crop_px", "stride_px", "test_scales", "test_flip"}
    first, last = dataclasses.asdict(second), dataclasses.asdict(several)
    assert {key for key in first if first[key] != last[key]} == changed
    with pytest.raises(ValueError, match="protocol 'v1' is unknown"):
        load("ade20k", "v1")


def test_nyu_crops_fit_into_their_frame():
    depth = load("nyuv2").depth
    views = DepthViews(depth.frame_hw, depth.train_box, depth.crop_hw)
    assert views == DepthViews()  # whose defaults are NYU's
