"""Snapshots of a run, scored and ranked by `python -m dinojax.show snapshots`."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from images import encode, smooth, write_folder

from dinojax.build.step import build_init
from dinojax.config import Config, default_config, parse_config, to_dict
from dinojax.config.shrink import shrink
from dinojax.data.check import fingerprint
from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.contract import write_or_check
from dinojax.show import show_snapshots
from dinojax.snapshots import Protocol, score_snapshots
from dinojax.training.data import open_data
from dinojax.training.safety import teacher_part

PROTOCOL = Protocol(image_px=32, train_images=12, held_out_images=6)


def config(**overrides: Any) -> Config:
    given = shrink(default_config())
    given.student.depth = 1
    given.crops.global_crops_size = 32
    given.crops.local_crops_size = 16
    given.data.scenes.num_images = 20
    given.data.scenes.num_classes = 2
    given.data.holdout = 0.4
    given.knn.batch_size = 4
    given.knn.image_px = 32
    given.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return parse_config(given)


@functools.cache
def backbone() -> Any:
    return jax.device_get(jax.jit(build_init(config()))().teacher["backbone"])


def save(workdir: Path, *steps: int, spread: float = 1.0) -> None:
    """Snapshots whose weights are `spread` x the first ones, by step."""
    with Checkpoints(workdir / "snapshots", every_steps=1) as snapshots:
        for step in steps:
            scaled = jax.tree.map(lambda x, step=step: x * np.float32(spread**step), backbone())
            snapshots.save(step, jax.tree.map(jax.numpy.asarray, teacher_part(scaled)))


def start(workdir: Path, given: Config) -> Path:
    data = open_data(given)
    found = fingerprint(data.source, data.order.mixture, read_timeout_s=60.0)
    write_or_check(workdir, to_dict(given), found._asdict())
    return workdir


def scored(workdir: Path, protocol: Protocol = PROTOCOL) -> tuple[list[int], dict[str, Any]]:
    """The steps that were scored now, and what the file holds."""
    told = []
    score_snapshots(workdir, protocol, lambda one: told.append(one.step))
    return told, json.loads((workdir / "snapshots.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    workdir = start(tmp_path_factory.mktemp("run"), config())
    save(workdir, 1, 2)
    return workdir


@pytest.mark.slow
def test_each_snapshot_is_scored_once(run, capsys):
    told, content = scored(run)
    assert told == [1, 2]
    assert content["protocol"]["image_px"] == 32 and content["criterion"] == "miou"
    scores = [one["scores"] for one in content["snapshots"]]
    # The same weights under two numbers: equal scores, and the later is recommended.
    assert scores[0] == scores[1] and set(scores[0]) == {"locality", "drift", "miou", "knn"}
    assert content["recommended"] == 2 and 0 < scores[0]["miou"] < 1

    shutil.rmtree(run / "snapshots" / "2")
    save(run, 2, 3, spread=2.0)  # other weights under a number that has scores
    told, content = scored(run)
    assert told == [2, 3] and [one["step"] for one in content["snapshots"]] == [1, 2, 3]
    assert content["snapshots"][0]["scores"] == scores[0]
    assert content["snapshots"][1]["scores"]["drift"] != scores[0]["drift"]

    show_snapshots(str(run), PROTOCOL, as_json=False)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].split() == ["rank", "step", "mIoU", "locality", "drift", "kNN"]
    best = lines[1].split()[1]
    assert lines[-2] == f"best by miou: --config.gram.teacher={run}/snapshots/{best}"
    assert lines[-1] == f"(or gram.teacher=auto with init.from={run})" and not said.err
    show_snapshots(str(run), PROTOCOL, as_json=True)
    assert json.loads(capsys.readouterr().out) == content

    show_snapshots(str(run), PROTOCOL, as_json=True, by="locality")
    assert json.loads(capsys.readouterr().out)["criterion"] == "locality"

    for step in (1, 3):
        shutil.rmtree(run / "snapshots" / str(step))
    told, content = scored(run)
    assert not told and [one["step"] for one in content["snapshots"]] == [2]
    other = dataclasses.replace(PROTOCOL, image_px=48, ignore=(1,))
    told, content = scored(run, other)
    assert told == [2] and content["protocol"]["ignore"] == [1]


@pytest.mark.slow
def test_images_without_labels_and_maps(tmp_path):
    """Locality decides; those of another source may have what the run's have not."""
    images = {f"{i}.jpg": encode(np.roll(smooth(40, 40), i, 1)) for i in range(20)}
    folder = write_folder(tmp_path / "images", images)
    workdir = start(tmp_path / "run", config(data__source=str(folder)))
    save(workdir, 1)
    _, content = scored(workdir)
    assert set(content["snapshots"][0]["scores"]) == {"locality", "drift"}
    assert content["criterion"] == "locality"
    scenes = dataclasses.replace(PROTOCOL, source="scenes:20")
    assert "miou" in scored(workdir, scenes)[1]["snapshots"][0]["scores"]


def test_mistakes_are_named(run, tmp_path):
    with pytest.raises(ValueError, match=r"--image_px=40 .* 16 px .*; use 48"):
        scored(run, Protocol(image_px=40))
    with pytest.raises(FileNotFoundError, match=r"holds no snapshots; train with --config\.check"):
        scored(start(tmp_path, config()))
