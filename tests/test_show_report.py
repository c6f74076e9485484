"""A run on one page: what it scored, how it went, how it looks, and what it set."""

import json
import re

import pytest
from trained_runs import make_run, small_config

from dinojax.show_report import make_report

RECIPE = """
from dinojax.config import default_config
from dinojax.config.shrink import shrink

def get_config(variant="plain"):
    config = shrink(default_config())
    config.student.depth, config.student.patch_size = 1, 8
    config.crops.global_crops_size, config.crops.local_crops_size = 16, 8
    config.knn.image_px = 16
    config.checkpoint.snapshot_every_steps = 3
    if variant == "hot":
        config.optim.lr.peak = 9.0
    return config
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    make_run(workdir, small_config())
    lines = [{"step": step, "total_loss": 9.0 - step, "lr": 0.5} for step in range(1, 4)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text + '{"step": 4, "tot')
    score = {"task": "knn", "metric": "top1", "value": 0.25, "spread": None, "protocol_hash": "ab"}
    scores = {"scores": [score], "protocols": {"ab": {"k": 20}}}
    (workdir / "scores.json").write_text(json.dumps(scores))
    (workdir / "recipe.py").write_text(RECIPE)
    return workdir


def report(run, recipe: str | None) -> str:
    return make_report(str(run), data=["scenes:8"], images=2, image_px=16, recipe=recipe)


def test_what_is_on_the_page(run):
    text = report(run, f"{run}/recipe.py:hot")
    assert "<h1>Run " in text and "The run has not finished" in text
    assert re.search(r"<td>knn</td><td>top1</td><td class=\"number\">0.25</td>", text)
    assert "ab: {&quot;k&quot;: 20}" in text
    assert text.count("<polyline") == 1 and "total_loss" in text  # without the half-written line
    assert "These did not change: lr = 0.5" in text
    for panel in ("Patch features as colours", "Similarity to one patch", "What CLS attends to"):
        assert f"<h2>{panel}</h2>" in text
    assert "<td>optim.lr.peak</td><td>9.0</td>" in text and "student.depth" not in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)


def test_the_recipe_itself(run, monkeypatch):
    """And without one the defaults, which a run differs from."""
    from dinojax import show_report

    monkeypatch.setattr(show_report, "_panels", lambda *_: [])
    assert "Exactly " in report(run, f"{run}/recipe.py")
    (run / "summary.json").write_text(json.dumps({"knn_trained": 0.5, "loss_last": None}))
    text = report(run, None)
    assert "<th>the defaults</th>" in text and "<td>student.depth</td>" in text
    assert '<td>knn_trained</td><td class="number">0.5</td>' in text and "loss_last" not in text
