"""Scores of frozen features: the monitor's values, with the hashes that make them comparable."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from trained_runs import make_run, small_config

from dinojax import mesh as meshes
from dinojax.backbones.run import open_trained
from dinojax.build_monitor import make_monitor
from dinojax.config_eval import EvalConfig, RecordsConfig
from dinojax.evaluate import evaluate
from dinojax.tasks import table as tasks
from dinojax.tasks.global_rows import labelled_rows
from dinojax.tasks.knn import KnnProtocol
from dinojax.tasks.task import Score, Task
from dinojax.training_data import open_data

KEYS = {"task", "metric", "value", "spread", "protocol_hash", "checkpoint_fingerprint"}


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
    assert 0 < values["segmentation_miou"] < 1
    assert values["knn_top1_k20"] == expected["knn"] <= values["knn_top1"]
    assert json.loads((workdir / "scores.json").read_text()) == found
    assert str(workdir) not in json.dumps(found)
    for score in found["scores"]:
        assert found["protocols"][score["protocol_hash"]]["task"] == score["task"]
        assert score["checkpoint_fingerprint"] == open_trained(str(workdir)).fingerprint
    assert all(set(score) == KEYS for score in found["scores"])
    table = (workdir / "scores.md").read_text()
    assert f"| segmentation | miou | {values['segmentation_miou']:.4f} |" in table
    assert '"temperature": 0.07' in table


def test_protocol_and_records_have_hashes(run, tmp_path, monkeypatch):
    """Each of its own."""
    task = Task(KnnProtocol, frozenset(), lambda *_: iter([Score("m", 0.5)]))
    monkeypatch.setitem(tasks.TASKS, "knn", task)

    def hashes(**changes: object) -> tuple:
        found = evaluate(str(run[0]), ["knn"], workdir=str(tmp_path / "new"), **changes)
        assert json.loads((tmp_path / "new" / "scores.json").read_text()) == found
        return set(found["protocols"]), found["data"]["train"]["fingerprint"]

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
        ({"data": "FOLDER"}, r"have no labels; sort .*, which task 'knn' needs; give others"),
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


def test_every_task_has_its_section():
    """Under its name, with its protocol as the default."""
    sections = {f.name: f.default for f in dataclasses.fields(EvalConfig)}
    assert {name: sections[name] for name in tasks.TASKS} == {
        name: task.protocol() for name, task in tasks.TASKS.items()
    }


def test_what_is_stored_is_not_extracted_again(run, tmp_path, monkeypatch):
    """For kNN the first time, for all tasks on whole images the second."""
    options = {"data": "scenes:60", "workdir": str(tmp_path)}
    before = evaluate(str(run[0]), ["knn"], **options)
    monkeypatch.setattr("dinojax.evaluation.feature_store._extract", None)
    after = evaluate(str(run[0]), ["knn", "retrieval"], **options)
    assert after["scores"][: len(before["scores"])] == before["scores"]


def test_new_labels_are_seen(tmp_path, monkeypatch):
    """Of the same ids and images: nothing is taken from what was stored for others.

    One record of 200 has another class, at a place that no sample of 64 is likely to hit.
    """
    seen = []

    def look(_, evaluation):
        for part in ("train", "test"):
            stored = labelled_rows(evaluation, part)
            source = getattr(evaluation.records, part)
            seen.append((stored.labels.tolist(), [source[i].label for i in range(len(source))]))
        return iter([Score("m", 0.5)])

    monkeypatch.setitem(tasks.TASKS, "knn", Task(KnnProtocol, frozenset(), look))
    images = np.random.default_rng(0).integers(0, 255, (200, 16, 16, 3), np.uint8)
    found = []
    for place in (None, 51, 52, 53, 54):
        labels = np.arange(200) % 3
        if place is not None:
            labels[place] = (labels[place] + 1) % 3
        np.savez(tmp_path / "x.npz", images=images, labels=labels)
        data = f"numpy:{tmp_path / 'x.npz'}"
        one = evaluate("pixels", ["knn"], data=data, image_px=16, workdir=str(tmp_path))
        found.append(tuple(part["fingerprint"] for part in one["data"].values()))
    assert len(seen) == 10 and all(stored == true for stored, true in seen)
    assert len(set(found)) == 5


def test_a_backbone_without_a_run(tmp_path):
    """Needs to be told where records are and scores go; then it has the same words."""
    with pytest.raises(ValueError, match=r"--checkpoint=pixels is of no run; give --workdir"):
        evaluate("pixels", ["knn"], data="scenes:40")
    with pytest.raises(ValueError, match=r"--checkpoint=pixels is of no run and has no data"):
        evaluate("pixels", ["knn"], workdir=str(tmp_path))
    found = evaluate("pixels", ["knn"], data="scenes:60", image_px=16, workdir=str(tmp_path))
    assert found["step"] is found["student"] is None and found["arch"] == "pixels"
    assert json.loads((tmp_path / "scores.json").read_text()) == found


def test_options_of_the_images(run, tmp_path):
    base = EvalConfig()

    def with_images(**changes: object) -> EvalConfig:
        return dataclasses.replace(base, images=dataclasses.replace(base.images, **changes))

    for changes, words in (
        ({"resize_px": 8}, "images.resize_px=8 leaves no 16 px"),
        ({"fit": "squash"}, "images.fit='squash' is unknown"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(str(run[0]), ["knn"], options=with_images(**changes))


def test_fewer_records(run, tmp_path):
    options = dataclasses.replace(EvalConfig(), records=RecordsConfig(max_train=12, max_test=0))
    found = evaluate(str(run[0]), ["knn"], data="scenes:60", workdir=str(tmp_path), options=options)
    assert found["data"]["train"]["records"] == 12 and found["data"]["test"]["records"] == 4
    wrong = dataclasses.replace(options, records=RecordsConfig(layout="places205"))
    with pytest.raises(ValueError, match=r"records.layout='places205' has no folder; give --data"):
        evaluate(str(run[0]), ["knn"], options=wrong)
