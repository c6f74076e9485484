"""Scores of frozen features: the monitor's values, with the hashes that make them comparable."""

import json
from types import SimpleNamespace

import jax
import pytest
from trained_runs import make_run, small_config

from dinojax import mesh as meshes
from dinojax.evaluate import evaluate, table
from dinojax.knn_monitor import make_monitor
from dinojax.trained import open_trained
from dinojax.training_data import open_data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, make_run(workdir, small_config())


def test_knn_is_that_of_the_monitor(run, tmp_path):
    workdir, state = run
    found = evaluate(str(workdir), ["knn"], workdir=str(tmp_path / "scores"))
    config = small_config()
    data = open_data(config)
    monitor = make_monitor(config, data.bank, data.queries)
    with jax.set_mesh(meshes.make_mesh()):
        expected = monitor(SimpleNamespace(teacher=state.teacher))
    values = {score["metric"]: score["value"] for score in found["scores"]}
    assert values == {"top1": expected["knn"], "top1_pixels": expected["knn_pixels"]}
    assert json.loads((tmp_path / "scores" / "scores.json").read_text()) == found
    for score in found["scores"]:
        assert score["task"] == "knn" and score["protocol_hash"] in found["protocols"]
        assert score["checkpoint_fingerprint"] == open_trained(str(workdir)).fingerprint
    said = table(found)
    assert f"{values['top1']:.4f}" in said and '"k": 20' in said
    # By default beside the run; the same words wherever it is done.
    assert evaluate(str(workdir), ["knn"]) == found and (workdir / "scores.json").exists()


def test_another_protocol_has_another_hash(run, tmp_path):
    base = evaluate(str(run[0]), ["knn"], workdir=str(tmp_path))
    other = evaluate(str(run[0]), ["knn"], image_px=24, workdir=str(tmp_path))
    assert base["protocols"].keys().isdisjoint(other["protocols"])
    assert base["data"] == other["data"]
    fewer = evaluate(str(run[0]), ["knn"], data="scenes:40", workdir=str(tmp_path))
    assert fewer["data"] != base["data"] and fewer["protocols"] == base["protocols"]


def test_the_fingerprint_is_that_of_the_teacher(run, tmp_path):
    """A snapshot of a step has that of the checkpoint; another state has another."""
    paths = [f"{run[0]}/{series}/3" for series in ("checkpoints", "snapshots")]
    first, second = (open_trained(path).fingerprint for path in paths)
    assert first == second
    config = small_config(student__embed_dim=32)
    make_run(tmp_path, config)
    assert open_trained(str(tmp_path)).fingerprint != first


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": ["knn", "lineal"]}, "--tasks=knn,lineal: use one or several of knn"),
        ({"tasks": []}, "--tasks=: use one"),
        ({"student": "#vit"}, "is of a run with one student"),
        ({"data": "FOLDER"}, "has no labels"),
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
