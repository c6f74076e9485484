"""What files and folders are said to be."""

import json
import math

import jax
import numpy as np
import pytest
from layouts import random_params, write_layout
from small_models import add_presets
from trained_runs import STEP, make_run, small_config

from dinojax.backbones.open import open_backbone
from dinojax.import_torch import import_torch
from dinojax.inspect import Tensor, inspect, modules
from dinojax.lineage import licence_of, parents
from dinojax.runtime.errors import CheckpointError


@pytest.fixture(scope="module", autouse=True)
def presets():
    with pytest.MonkeyPatch.context() as patch:
        add_presets(patch)
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("file")
    backbone = open_backbone("random:small16").backbone
    params = random_params(backbone)
    path = folder / "x.safetensors"
    return write_layout(path, "official", backbone, params, licence="L", step="7"), params


def test_a_file(file):
    path, params = file
    found = inspect(str(path))
    assert found["kind"] == "weights" and found["arch"] == "small16" and found["licence"] == "L"
    assert found["layout"] == "official" and found["metadata"]["step"] == "7"
    by_name = {one.name: one for one in found["tensors"]}
    one = by_name["blocks.1.mlp.fc1.weight"]
    kernel = params["blocks"]["mlp"]["fc1"]["kernel"][1]
    assert one.shape == (256, 64) and one.dtype == "F32"
    assert one.norm == pytest.approx(float(np.linalg.norm(kernel.astype(np.float64))))
    rows = {row["name"]: row for row in modules(found["tensors"])}
    row = rows["blocks.*.mlp.fc1.weight"]
    assert row["tensors"] == 2 and row["shape"] == [256, 64] and row["norms"][1] >= one.norm
    json.dumps(found)


@pytest.mark.slow
def test_a_run_and_where_it_is_from(file, tmp_path):
    """A checkpoint of a run that began with an imported file, and its ancestors."""
    workdir, imported = tmp_path / "run", tmp_path / "imported"
    _, result = import_torch(str(file[0]), str(imported))
    config = small_config(init__from=result["snapshot"], gram__teacher=None)
    state = make_run(workdir, config)
    found = inspect(str(workdir))
    assert found["kind"] == "run" and found["checkpoints"] == found["snapshots"] == [STEP]
    (parent,) = found["parents"]
    assert parent["key"] == "init.from" and parent["kind"] == "imported weights"
    assert parent["licence"] == "L" and parent["arch"] == "small16" and parent["parents"] == []
    snapshot = inspect(f"{workdir}/snapshots/{STEP}")
    assert snapshot["kind"] == "snapshot of run" and snapshot["step"] == STEP
    (one,) = [t for t in snapshot["tensors"] if t.name == "teacher/backbone/norm/scale"]
    scale = np.asarray(state.teacher["backbone"]["norm"]["scale"], np.float64)
    assert one.norm == pytest.approx(float(np.linalg.norm(scale)))
    norms = {t.name: t.norm for t in found["tensors"]}
    assert norms[one.name] == one.norm
    assert any(norm is None and name.startswith("student/") for name, norm in norms.items())
    told = inspect(str(imported))
    assert told["kind"] == "imported weights" and told["file"] == str(file[0])
    assert len(told["tensors"]) == len(jax.tree.leaves(file[1]))
    json.dumps([found, snapshot, told])


def test_ancestors_that_are_gone_and_circles(tmp_path):
    config = {"init": {"from": "runs/gone"}, "gram": {"teacher": "ema"}}
    assert parents(config) == [
        {"key": "init.from", "path": "runs/gone", "kind": "not here any more", "parents": []}
    ]
    workdir = tmp_path / "a"
    make_run(workdir, small_config(init__from=str(workdir)))
    (parent,) = inspect(str(workdir))["parents"]
    assert parent["path"] == str(workdir) and parent["parents"] == []


def test_licences():
    """Known by the names of releases, and by headers; else unknown."""
    assert licence_of("x/dinov2_vitb14_pretrain.pth", {}) == "Apache-2.0"
    assert (
        licence_of("dinov3_vits16_pretrain_lvd1689m-08c60483.safetensors", {}) == "DINOv3 License"
    )
    assert licence_of("x.safetensors", {}, "dinov3_vits16") == "DINOv3 License"
    assert licence_of("dinov3_mine.safetensors", {}) is None
    assert licence_of("dinov2_vitb14.safetensors", {"licence": "mine"}) == "mine"
    assert licence_of("dinov2_vitb14.safetensors", {"licence_notice": "Random."}) is None


def test_what_is_neither(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no file of weights, Hugging Face folder"):
        inspect(str(tmp_path))
    with pytest.raises((FileNotFoundError, CheckpointError)):
        inspect(str(tmp_path / "snapshots" / "3"))


def test_modules_of_other_shapes():
    odd = [Tensor("a.0.b", (1,), "F32", None), Tensor("a.1.b", (2,), "I8", math.inf)]
    (row,) = modules(odd)
    assert row == {
        "name": "a.*.b",
        "tensors": 2,
        "shape": "several",
        "dtype": "F32 and I8",
        "norms": [math.inf, math.inf],
    }
