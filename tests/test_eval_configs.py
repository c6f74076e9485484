"""The shipped evaluations: what they name exists, and a miniature of each layout goes through."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from images import encode, write_folder

from dinojax.config.evaluation import EvalConfig, parse_config
from dinojax.data.layouts.table import LAYOUTS
from dinojax.evaluate import evaluate
from dinojax.models.presets import PRESETS
from dinojax.tasks.table import TASKS

FOLDER = Path(__file__).parent.parent / "configs" / "eval"
VARIANTS = {
    "in1k": ("dinov2", "dinov3", "logistic"),
    "ade20k": ("dinov3", "dinov2", "dinov2_ms"),
    "inat": ("2018", "2021"),
    "places": ("205", "365"),
    "oxford_paris": ("oxford", "paris"),
}
NAMES = [
    name
    for file in sorted(path.stem for path in FOLDER.glob("*.py"))
    for name in (file, *(f"{file}:{variant}" for variant in VARIANTS.get(file, ())))
]


def config(name: str) -> EvalConfig:
    file, *variant = name.split(":")
    spec = importlib.util.spec_from_file_location(file, FOLDER / f"{file}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return parse_config(module.get_config(*variant))


@pytest.mark.parametrize("name", NAMES)
def test_what_it_names_exists(name):
    given = config(name)
    assert set(given.tasks) <= set(TASKS)
    assert given.records.layout is None or given.records.layout in LAYOUTS
    for arch, score, value, source in given.published:
        assert arch in PRESETS and score.split("_")[0] in given.tasks
        assert 0 < value < 100 and source
    text = (FOLDER / f"{name.partition(':')[0]}.py").read_text()
    assert re.match(r'""".*\n\nCommand:  python -m dinojax.evaluate --config=configs/eval/', text)


@pytest.mark.parametrize("file", VARIANTS)
def test_an_unknown_variant(file):
    with pytest.raises(ValueError, match=rf"{file}:other is unknown; use one of"):
        config(f"{file}:other")


def test_a_miniature_of_imagenet(tmp_path):
    """Two classes, black and white: everything from the folder to the table."""
    files = {}
    for label, name in enumerate(("n01440764", "n01443537")):
        for i in range(12):
            image = np.full((16, 20, 3), 255 * (i % 2), np.uint8)  # a border, so not constant
            image[4:12, 4:16] = 200 * label + i
            split = "train" if i < 8 else "val"
            files[f"{split}/{name}/{name}_{i}.png"] = encode(image, "PNG")
    given = config("in1k")
    given = replace(given, images=replace(given.images, batch_size=8))
    found = evaluate(
        "pixels",
        ["knn"],
        data=str(write_folder(tmp_path / "imagenet", files)),
        image_px=16,
        workdir=str(tmp_path / "scores"),
        options=given,
    )
    values = {score["metric"]: score["value"] for score in found["scores"]}
    assert found["data"]["train"]["records"] == 16 and found["data"]["test"]["records"] == 8
    assert set(values) == {f"{m}{k}" for m in ("top1", "mean_class") for k in ("", "_k10", "_k16")}
    (protocol,) = found["protocols"].values()
    assert protocol["resize_px"] == 256 and protocol["ks"] == [10, 20, 100, 200]
    table = (tmp_path / "scores" / "scores.md").read_text()
    assert f"| knn | top1 | {values['top1']:.4f} |" in table
