"""Scores of frozen features: the monitor's values, with the hashes that make them comparable."""

import json

import jax
import pytest
from trained_runs import make_run, small_config

from dinojax import mesh as meshes
from dinojax import tasks
from dinojax.build_monitor import make_monitor
from dinojax.evaluate import evaluate, table
from dinojax.tasks import Task
from dinojax.trained import open_trained
from dinojax.training_data import open_data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, make_run(workdir, small_config())


def test_the_tasks(run, tmp_path):
    """kNN is that of the monitor in training; the words are the same wherever it is done."""
    workdir, state = run
    found = evaluate(str(workdir), ["knn", "segmentation"])
    config = small_config()
    data = open_data(config)
    monitor = make_monitor(config, data.bank, data.queries)
    with jax.set_mesh(meshes.make_mesh()):
        expected = monitor(state)
    values = {f"{score['task']}_{score['metric']}": score["value"] for score in found["scores"]}
    miou = values.pop("segmentation_miou")
    assert 0 < miou < 1
    assert values == {"knn_top1": expected["knn"], "knn_top1_pixels": expected["knn_pixels"]}
    assert json.loads((workdir / "scores.json").read_text()) == found
    assert str(workdir) not in json.dumps(found)
    for score in found["scores"]:
        assert found["protocols"][score["protocol_hash"]]["task"] == score["task"]
        assert score["checkpoint_fingerprint"] == open_trained(str(workdir)).fingerprint
    said = table(found)
    assert f"{miou:.4f}" in said and '"k": 20' in said


def test_protocol_and_records_have_hashes(run, tmp_path, monkeypatch):
    """Each of its own."""
    task = Task(lambda config: {"px": config.knn.image_px}, lambda *_: iter([("m", 0.5)]))
    monkeypatch.setitem(tasks.TASKS, "fake", task)

    def hashes(**changes: object) -> tuple:
        found = evaluate(str(run[0]), ["fake"], workdir=str(tmp_path / "new"), **changes)
        assert json.loads((tmp_path / "new" / "scores.json").read_text()) == found
        return set(found["protocols"]), found["data"]["bank"]["fingerprint"]

    base, larger, fewer = hashes(), hashes(image_px=24), hashes(data="scenes:40")
    assert base[0] != larger[0] and base[1] == larger[1]
    assert base[0] == fewer[0] and base[1] != fewer[1]


def test_a_snapshot_has_the_fingerprint_of_the_checkpoint(run):
    first, second = (open_trained(f"{run[0]}/{name}/3") for name in ("checkpoints", "snapshots"))
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": ["knn", "lineal"]}, "--tasks=knn,lineal: use one or several of knn"),
        ({"tasks": []}, "--tasks=: use one"),
        ({"student": "#vit"}, "is of a run with one student"),
        ({"data": "FOLDER"}, "has no labels"),
        ({"image_px": 20}, "--image_px=20 is not a multiple of the 8 px .*; use 24"),
    ],
)
def test_what_cannot_be_evaluated(run, tmp_path, changes, words):
    given = {"tasks": ["knn"], **changes}
    if given.get("data") == "FOLDER":
        for i in range(40):
            (tmp_path / f"{i}.png").write_bytes(b"")
        given["data"] = str(tmp_path)
    with pytest.raises(ValueError, match=words):
        evaluate(str(run[0]) + given.pop("student", ""), **given)


def test_no_run_where_one_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint=.* has no checkpoint in"):
        evaluate(str(tmp_path), ["knn"])
