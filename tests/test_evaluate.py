"""Scores of frozen features: the monitor's values, with the hashes that make them comparable."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from evaluations import Gradients, evaluation
from trained_runs import make_run, small_config

from dinojax import mesh as meshes
from dinojax.backbones.run import open_trained
from dinojax.build.monitor import make_monitor
from dinojax.config.evaluation import EvalConfig, RecordsConfig
from dinojax.data.eval_records import EvalRecords, Judged
from dinojax.evaluate import _data, evaluate
from dinojax.tasks import table as tasks
from dinojax.tasks.fewshot import FewshotProtocol
from dinojax.tasks.global_rows import labelled_rows
from dinojax.tasks.knn import KnnProtocol
from dinojax.tasks.task import Score, Task, over_seeds
from dinojax.training.data import open_data

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
        ({"data": "FOLDER"}, r"have no labels, which task 'knn' needs; sort .* class, give "),
        ({"image_px": 0}, "--image_px=0 is not a multiple of the 8 px .*; use 8"),
        ({"image_px": 0, "tasks": ["segmentation"]}, "--image_px=0 .*; use 8"),
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


class KilledError(Exception):
    pass


@pytest.fixture
def counted(monkeypatch):
    """(what has been computed, what is to die) by two tasks, one of seeds."""
    done, dies = [], set()

    def compute(name: str) -> None:
        if name in dies:
            raise KilledError
        done.append(name)

    def whole(protocol, evaluation):
        compute("whole")
        yield Score("a", np.float64(1 / 3))
        yield Score("b", 0.5)

    def seeds(protocol, evaluation):
        def run(seed):
            compute(f"seed {seed}")
            return {"c": np.float32(seed / 7)}

        yield from over_seeds(run, protocol.seeds, evaluation.keep)

    monkeypatch.setitem(tasks.TASKS, "knn", Task(KnnProtocol, frozenset(), whole))
    monkeypatch.setitem(tasks.TASKS, "fewshot", Task(FewshotProtocol, frozenset(), seeds))
    return done, dies


PARTS = ["whole", *(f"seed {seed}" for seed in FewshotProtocol().seeds)]


def count(folder: Path, **changes: object) -> dict:
    given = {"data": "scenes:40", "image_px": 16, "workdir": str(folder), **changes}
    return evaluate("pixels", ["knn", "fewshot"], **given)


def test_what_is_finished_is_not_lost(counted, tmp_path):
    """A task that dies at its last seed costs this seed; its predecessor's scores are written."""
    (done, dies), killed, whole = counted, tmp_path / "killed", tmp_path / "whole"
    expected = count(whole)
    assert done == PARTS
    done.clear()
    dies.add(PARTS[-1])
    with pytest.raises(KilledError):
        count(killed)
    written = json.loads((killed / "scores.json").read_text())
    assert written["scores"] == [one for one in expected["scores"] if one["task"] == "knn"]
    assert "| knn | a | 0.3333 |" in (killed / "scores.md").read_text()
    dies.clear()
    assert count(killed) == expected and done == PARTS
    assert (killed / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()


@pytest.mark.slow
def test_what_is_finished_is_of_one_evaluation(counted, tmp_path, monkeypatch):
    """Of the same protocol, records, preparation, checkpoint and code."""
    done, _ = counted
    fewer = dataclasses.replace(EvalConfig(), fewshot=FewshotProtocol(shots=(1,)))
    count(tmp_path)
    for changes, computed in (
        ({}, []),
        ({"options": fewer}, PARTS[1:]),
        ({"data": "scenes:41"}, PARTS),
        ({"image_px": 24}, PARTS),
    ):
        done.clear()
        count(tmp_path, **changes)
        assert done == computed
    for name in ("backbones.opened.Opened.fingerprint", "runtime.agreement.source_digest"):
        done.clear()
        with monkeypatch.context() as patch:
            patch.setattr(f"dinojax.{name}", "other" if "Opened" in name else lambda: "other")
            count(tmp_path)
        assert done == PARTS


def test_a_damaged_file_of_a_finished_task_is_named(counted, tmp_path):
    options = {"data": "scenes:40", "image_px": 16, "workdir": str(tmp_path)}
    evaluate("pixels", ["knn"], **options)
    (path,) = (tmp_path / "finished").iterdir()
    path.write_text("{")
    with pytest.raises(ValueError, match=rf"{path.name} is damaged .*; delete it and run again"):
        evaluate("pixels", ["knn"], **options)


def test_scores_by_other_truths_are_not_comparable():
    """Classes that are accepted, and images that are to be found, belong to the data."""
    part = Gradients("train", 6, 0.0)
    none = np.array([], int)
    judged = tuple(Judged(np.array([i]), none, none) for i in range(6))
    found = [
        _data(evaluation(Path(), EvalRecords(part, part, **truth)))
        for truth in (
            {},
            {"accepted": ((0,),) * 6},
            {"accepted": ((0, 1),) * 6},
            {"judged": judged},
            {"judged": judged[::-1]},
        )
    ]
    assert len({one["test"]["fingerprint"] for one in found}) == 5
    assert len({one["train"]["fingerprint"] for one in found}) == 1


@pytest.mark.slow
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
        ({"resize_px": 0}, "images.resize_px=0 leaves no 16 px"),
        ({"fit": "squash"}, "images.fit='squash' is unknown"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(str(run[0]), ["knn"], options=with_images(**changes))


@pytest.mark.slow
def test_fewer_records(run, tmp_path):
    options = dataclasses.replace(EvalConfig(), records=RecordsConfig(max_train=12, max_test=0))
    found = evaluate(str(run[0]), ["knn"], data="scenes:60", workdir=str(tmp_path), options=options)
    assert found["data"]["train"]["records"] == 12 and found["data"]["test"]["records"] == 4
    half = dataclasses.replace(EvalConfig(), records=RecordsConfig(holdout=0.5))
    found = evaluate(str(run[0]), ["knn"], data="scenes:60", workdir=str(tmp_path), options=half)
    assert 20 < found["data"]["test"]["records"] < 40
    wrong = dataclasses.replace(options, records=RecordsConfig(layout="places205"))
    with pytest.raises(ValueError, match=r"records.layout='places205' has no folder; give --data"):
        evaluate(str(run[0]), ["knn"], options=wrong)
