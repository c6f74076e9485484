"""The outcome of a run, from the metrics of all its attempts."""

import json
from unittest.mock import Mock

import pytest

from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.summary import finished, first_and_last, write_summary

LINES = [
    {"step": 0, "knn": 0.1, "knn_pixels": 0.25},
    {"step": 1, "total_loss": 9.0},
    {"step": 2, "total_loss": None},  # not finite
    {"step": 3, "total_loss": 7.5, "knn": 0.0},
    {"step": 4, "total_loss": 8.0, "knn": 0.6},
    {"step": 5, "total_loss": None},
]


@pytest.fixture
def workdir(tmp_path):
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    (tmp_path / "metrics.jsonl").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("total_loss", (9.0, 8.0)),
        ("knn", (0.1, 0.6)),
        ("knn_pixels", (0.25, 0.25)),
        ("lr", (None, None)),
    ],
)
def test_first_and_last(workdir, name, ends):
    assert first_and_last(workdir, name) == ends
    assert first_and_last(str(workdir), name) == ends


def test_summary_is_what_it_returns(workdir):
    summary = write_summary(workdir, {"steps": 5, "images_per_s": 12.5})
    assert summary == {
        "knn_untrained": 0.1,
        "knn_pixels": 0.25,
        "knn_trained": 0.6,
        "loss_first": 9.0,
        "loss_last": 8.0,
        "steps": 5,
        "images_per_s": 12.5,
    }
    assert json.loads((workdir / "summary.json").read_text()) == summary
    assert sorted(p.name for p in workdir.iterdir()) == ["metrics.jsonl", "summary.json"]


def test_a_run_is_finished_with_its_last_checkpoint_and_its_summary(workdir):
    checkpoints = Mock(spec=Checkpoints, **{"steps.return_value": [3, 5]})
    assert finished(workdir, checkpoints, 5) is None
    summary = write_summary(workdir, {"steps": 5})
    assert finished(workdir, checkpoints, 5) == summary
    assert finished(workdir, checkpoints, 9) is None  # --allow_change=train.steps


def test_what_was_never_measured_is_null(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    assert set(write_summary(tmp_path, {}).values()) == {None}


def test_each_of_several_students_has_its_score(tmp_path):
    lines = [{"step": 0, "small/knn": 0.1, "b/knn": 0.2}, {"step": 4, "small/knn": 0.3}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = write_summary(tmp_path, {})
    assert {name: value for name, value in summary.items() if value is not None} == {
        **{"small/knn_untrained": 0.1, "small/knn_trained": 0.3},
        **{"b/knn_untrained": 0.2, "b/knn_trained": 0.2},
    }
