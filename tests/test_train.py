"""The training app the way a user runs it: outcomes, refusals, resuming after SIGKILL."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import ml_collections
import numpy as np
import pytest
from absl import logging
from images import encode
from recipe_files import recipe

from dinojax import mesh as meshes
from dinojax import train as app
from dinojax import trees
from dinojax.build.step import build_init
from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.config.validation import validate
from dinojax.data.threads import StorageError
from dinojax.runtime import exits
from dinojax.runtime.checkpoint import Checkpoints, abstract
from dinojax.runtime.contract import read_contract
from dinojax.runtime.lock import locked
from dinojax.runtime.loop import Outcome
from dinojax.runtime.quarantine import BadBudgetError, read_ledger
from dinojax.train import train
from dinojax.training import attempt, binding
from dinojax.training.data import open_data

ROOT = Path(__file__).parent.parent
SUMMARY = (
    "knn_untrained",
    "knn_pixels",
    "knn_trained",
    "images_per_s",
    "steps",
    "loss_first",
    "loss_last",
    "nonfinite_steps",
)


def debug_dict(**overrides) -> ml_collections.ConfigDict:
    config = shrink(default_config())
    config.mesh.fsdp = 2  # 8 fake devices: data 4 x fsdp 2
    config.train.batch_size = 16
    config.train.draw_group_size = 1
    config.dino.koleo_group_size = 2
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return config


def debug(**overrides) -> Config:
    return parse_config(debug_dict(**overrides))


def lines_of(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_its_summary(tmp_path):
    summary = train(debug(), str(tmp_path))
    assert set(SUMMARY) <= set(json.loads((tmp_path / "summary.json").read_text()))
    assert summary["steps"] == 3
    assert summary["nonfinite_steps"] == 0, lines_of(tmp_path)
    assert 0 <= summary["knn_trained"] <= 1 and np.isfinite(summary["loss_last"])
    lines = lines_of(tmp_path)
    losses = [line["step"] for line in lines if "total_loss" in line]
    assert losses == [1, 2, 3]
    assert list((tmp_path / "tensorboard").iterdir())
    # The same command again has nothing to do.
    assert train(debug(), str(tmp_path)) == summary and lines_of(tmp_path) == lines
    # The workdir now belongs to this configuration.
    with pytest.raises(ValueError, match=r"seed"):
        train(debug(train__seed=1), str(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"crops__global_crops_size": 65}, "crops.global_crops_size=65.*64 or 80"),
        ({"train__draw_group_size": 3}, "train.draw_group_size=3"),
        ({"student__arch": "vitx"}, "vitx.*vits16"),
        ({"train__centering": "median"}, "train.centering='median'.*softmax"),
        ({"train__precision": "int4"}, "int4.*float32"),
        ({"dino__koleo_group_size": 5}, "koleo_group_size=5"),
        ({"optim__lr__warmup_steps": 9}, "warmup_steps=9"),
        ({"ibot__mask_sample_probability": 0.0}, "mask_sample_probability=0.0"),
        ({"train__steps": 0}, "train.steps=0"),
        ({"knn__image_px": 60}, "knn.image_px=60"),
        ({"knn__image_px": 16}, "knn.image_px=16.*at least 2 patches.*use 32"),
        ({"guardian__action": "panic"}, "guardian.action='panic'.*rollback"),
        ({"guardian__ignore": ("rank",)}, "guardian.ignore names 'rank'.*rank_collapse"),
        ({"guardian__action": "stop", "knn__every_steps": 0}, "no scores.*knn.every_steps=5000"),
        (
            {"guardian__action": "rollback", "checkpoint__keep_last": 1},
            "keep_last=1 .* less than the 3 steps of knn.every_steps.*keep_last=2",
        ),
        ({"student__num_heads": 3}, "num_heads=3"),
        ({"student__init_std": 0.0}, "init_std=0.0"),
        ({"student__remat": "some"}, "remat='some'.*dots"),
        ({"student__attention_backend": "splash"}, "attention_backend='splash'.*reference"),
        ({"student__norm_layer": "batchnorm"}, "norm_layer='batchnorm'.*layernorm"),
        ({"student__ffn_layer": "gated"}, "ffn_layer='gated'.*swiglu"),
        ({"checkpoint__every_steps": 0}, "checkpoint.every_steps=0"),
        ({"train__rollback_after": -1}, "rollback_after=-1 must be at least 0; 0 switches"),
        ({"train__rollback_after": 5}, "keep_last=3 .* less than the 7 steps .*keep_last=4"),
        ({"data__bad_budget": 1.5}, "data.bad_budget=1.5.*0..1"),
        ({"data__read_timeout_s": 0.0}, "data.read_timeout_s=0.0.*300.0"),
        ({"student__in_chans": 0}, "student.in_chans=0"),
        ({"student__in_chans": 4}, "crops.rgb_mean=.* images of 4 channels; give one per channel"),
    ],
)
def test_impossible_configurations_are_refused(overrides, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        validate(debug(**overrides), batch_shards=4)


@pytest.mark.slow
def test_images_of_one_channel(tmp_path, monkeypatch):
    """Luminance of RGB records; what needs colours is switched off, and one line says so."""
    said = []
    monkeypatch.setattr(
        logging, "info", lambda text, *args: said.append(text % args if args else text)
    )
    statistics = {"crops__rgb_mean": (0.5,), "crops__rgb_std": (0.25,)}
    summary = train(debug(student__in_chans=1, **statistics), str(tmp_path))
    assert np.isfinite(summary["loss_last"]) and 0 <= summary["knn_trained"] <= 1
    switched = [line for line in said if "switched off" in line]
    assert len(switched) == 1 and "student.in_chans=1: crops.jitter_strengths[2:]" in switched[0]


def test_images_of_another_number_of_channels_are_named(tmp_path):
    statistics = {"crops__rgb_mean": (0.5,) * 4, "crops__rgb_std": (0.25,) * 4}
    with pytest.raises(ValueError, match=r"scenes/train/000000.*channels found: 3, wanted: 4"):
        train(debug(student__in_chans=4, **statistics), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_data_problems_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        open_data(debug(data__source=str(tmp_path / "empty")))
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i}.jpg").write_bytes(encode(np.full((8, 8, 3), i, np.uint8)))
    (folder / "7.jpg").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"7\.jpg"):
        train(debug(data__source=str(folder)), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def image_folder(path: Path, *, good: int, bad: int) -> Path:
    path.mkdir()
    for i in range(good):
        (path / f"{i}.png").write_bytes(encode(np.full((8, 8, 3), i, np.uint8), "PNG"))
    for i in range(bad):
        (path / f"bad{i}.jpg").write_bytes(b"not an image")
    return path


def run_main(monkeypatch, config: ml_collections.ConfigDict, workdir: Path) -> int:
    """The exit code of the command with these flags; the process goes on."""
    alone = {"coordinator": None, "num_processes": 1, "process_id": None, "allow_change": []}
    flags = SimpleNamespace(config=config, workdir=str(workdir), **alone)
    monkeypatch.setattr(app, "flags", SimpleNamespace(FLAGS=flags))
    monkeypatch.setattr(exits, "threading", Mock())
    with pytest.raises(SystemExit) as left:
        app.main(["train"])
    return left.value.code


def test_unreadable_records_are_replaced_until_the_budget_is_met(tmp_path, monkeypatch, capsys):
    """The loop's batches, without its steps: a fifth of the images is unreadable."""
    consumed = []

    def loop(*_, batches, **__):
        consumed.extend(batches)

    monkeypatch.setattr(attempt, "run", loop)
    monkeypatch.setattr(attempt, "compile_step", lambda *_: Mock())
    monkeypatch.setattr(binding, "verify", lambda *_, **__: None)
    folder = str(image_folder(tmp_path / "images", good=40, bad=10))
    options = {"data__source": folder, "data__bad_budget": 0.1, "knn__every_steps": 0}
    assert run_main(monkeypatch, debug_dict(**options), tmp_path / "run") == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"dinojax\.train: 1\d of \d+ records read until step \d+ are unreadable", said)
    entries = read_ledger(tmp_path / "run")
    lost = [entry["step"] for entry in entries if not entry["attempt"]]
    assert {entry["id"] for entry in entries} <= {f"bad{i}.jpg" for i in range(10)}
    assert len(lost) > 16 >= sum(step < len(consumed) for step in lost)
    assert lost[-1] == len(consumed) > 3  # stopped before the step


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((ValueError, 2), (FileNotFoundError, 2), (PermissionError, 2), (NotADirectoryError, 2)),
        *((BadBudgetError, 3), (StorageError, 4)),
    ],
)
def test_what_stops_a_run_is_one_sentence_and_a_code(tmp_path, monkeypatch, capsys, error, code):
    monkeypatch.setattr(app, "train", Mock(side_effect=error("this is why")))
    assert run_main(monkeypatch, debug_dict(), tmp_path) == code
    assert capsys.readouterr().err == "dinojax.train: this is why\n"


def test_two_trainings_of_one_workdir(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "LAST_WORDS_S", 0.0)
    with (
        locked(tmp_path, "dinojax.train"),
        pytest.raises(ValueError, match=r"is being written by another dinojax\.train; wait for it"),
    ):
        train(debug(knn__every_steps=0), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_key_that_is_allowed_may_change(tmp_path, monkeypatch):
    state = SimpleNamespace(step=3, refused_steps=0)
    monkeypatch.setattr(app, "run_segments", lambda *_, **__: Outcome(state, 1.0))
    monkeypatch.setattr(app, "write_summary", lambda *_: {})
    train(debug(knn__every_steps=0), str(tmp_path))
    other = debug(knn__every_steps=0, train__seed=1)
    with pytest.raises(ValueError, match=r"train\.seed was 0 and is 1; .*--allow_change=KEY"):
        train(other, str(tmp_path))
    train(other, str(tmp_path), ["train.seed"])
    (entry,) = read_contract(tmp_path)["history"]
    assert entry["changes"] == ["train.seed was 0 and is 1"]


def test_once_training_has_begun_nothing_is_refused(tmp_path, monkeypatch):
    """A bug in a step has code 1 and a traceback, whatever it raises."""
    monkeypatch.setattr(attempt, "run", Mock(side_effect=ValueError("a bug")))
    monkeypatch.setattr(attempt, "compile_step", lambda *_: Mock())
    with pytest.raises(RuntimeError, match="ValueError: a bug"):
        run_main(monkeypatch, debug_dict(knn__every_steps=0), tmp_path)


def test_what_nobody_foresaw_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "train", Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        run_main(monkeypatch, debug_dict(), tmp_path)


def test_ids_choose_the_records(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(200):
        (folder / f"{i}.jpg").write_bytes(b"")
    listed = [f"{i}.jpg" for i in range(100)] * 2
    (tmp_path / "ids.txt").write_text("\n".join(listed))
    data = open_data(debug(data__source=str(folder), data__ids=str(tmp_path / "ids.txt")))
    parts = data.source, data.queries
    train_ids, held_ids = ([part.record_id(i) for i in range(len(part))] for part in parts)
    assert sorted(train_ids + held_ids) == sorted(listed)
    assert not set(train_ids) & set(held_ids)  # both copies of a record are on one side

    (tmp_path / "ids.txt").write_text("scenes/train/000002\nscenes/train/000000")
    data = open_data(debug(data__ids=str(tmp_path / "ids.txt")))
    scenes, held = data.source, data.queries
    assert [scenes.record_id(i) for i in range(2)] == ["scenes/train/000002", "scenes/train/000000"]
    assert len(scenes) == 2 and held.record_id(0) == "scenes/test/000000"


def command(workdir: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "dinojax.train", f"--workdir={workdir}"),
        f"--config={ROOT}/configs/dinov3_vitl16_in1k.py:debug",
        *("--config.train.steps=40", "--config.checkpoint.every_steps=5"),
        "--config.knn.every_steps=0",
    ]


def checkpoint_bytes(workdir: Path) -> dict[str, np.ndarray]:
    """Leaves of the final checkpoint, read in this process."""
    config = recipe("dinov3_vitl16_in1k:debug")
    shapes = jax.eval_shape(build_init(config))
    layout = meshes.shardings(meshes.make_mesh(), shapes)
    with Checkpoints(workdir / "checkpoints", every_steps=5, keep_last=9) as checkpoints:
        assert checkpoints.steps()[-1] == 40
        state = checkpoints.restore(abstract(shapes, layout), 40)
    return {k: np.asarray(v) for k, v in trees.flatten(state).items()}


@pytest.mark.slow
def test_bad_files_killed_and_resumed(tmp_path):
    """By command line: over budget, with more budget but killed, resumed by workers: one ledger."""
    folder = image_folder(tmp_path / "images", good=60, bad=20)
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}

    def arguments(workdir: Path, budget: float, workers: int = 0) -> list[str]:
        options = {"source": folder, "holdout": 0.2, "bad_budget": budget, "num_workers": workers}
        return [*command(workdir), *(f"--config.data.{k}={v}" for k, v in options.items())]

    def finish(workdir: Path, budget: float, workers: int = 0) -> subprocess.CompletedProcess:
        line = arguments(workdir, budget, workers)
        return subprocess.run(line, env=env, cwd=ROOT, capture_output=True, text=True)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert finish(whole, 0.5).returncode == 0
    refused = finish(tmp_path / "refused", 0.1)
    assert refused.returncode == 2 and "checked records cannot be read" in refused.stderr

    # Every read of the held-out tenth aside, about a quarter is lost: 0.1 is met at 16 records.
    unchecked = [*arguments(broken, 0.1), "--config.data.verify_images=1"]
    over = subprocess.run(unchecked, env=env, cwd=ROOT, capture_output=True, text=True)
    last = over.stderr.splitlines()[-1]
    assert over.returncode == 3 and last.startswith("dinojax.train: 1"), over.stderr
    assert "more than data.bad_budget=0.1 allows: record 'bad" in last

    process = subprocess.Popen(
        arguments(broken, 0.5, workers=2),
        **{"env": env, "cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL},
    )
    deadline = time.monotonic() + 300
    while not (broken / "checkpoints" / "20").is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert finish(broken, 0.5, workers=1).returncode == 0
    assert read_ledger(broken) == read_ledger(whole)
    expected, found = checkpoint_bytes(whole), checkpoint_bytes(broken)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
def test_a_file_that_hangs_stops_the_run(tmp_path):
    folder = image_folder(tmp_path / "images", good=60, bad=0)
    os.mkfifo(folder / "hangs.jpg")
    options = {"source": folder, "holdout": 0.2, "read_timeout_s": 2.0}
    done = subprocess.run(
        [*command(tmp_path / "run"), *(f"--config.data.{k}={v}" for k, v in options.items())],
        **{"env": {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}, "cwd": ROOT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    assert "record 'hangs.jpg' could not be read within data.read_timeout_s=2 s" in done.stderr
