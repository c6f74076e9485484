"""Files for PyTorch: the EMA teacher, bit for bit, and what they say about it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from trained_runs import STEP, make_run, small_config

from dinojax import trees
from dinojax.backbones.run import open_trained
from dinojax.build_model import build_backbone
from dinojax.export.names import from_torch
from dinojax.export_torch import check_format, export_torch
from dinojax.precision import POLICIES

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, make_run(workdir, small_config())


def same(found, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("where", ["", "checkpoints/3", "snapshots/3"])
def test_official_layout(run, tmp_path, where):
    """Of a workdir, a checkpoint or a snapshot: there and back, and the same file each time."""
    workdir, state = run
    path = tmp_path / "sub" / "x.safetensors"
    written = export_torch(str(workdir / where), str(path))
    official = load_file(path)
    assert {"rope_embed.periods", "blocks.0.attn.qkv.bias_mask"} <= official.keys()
    expected = state.teacher["backbone"]
    same(from_torch(official, expected), expected)
    assert written["tensors"] == len(official) and written["bytes"] == path.stat().st_size
    assert written["parameters"] == trees.count(expected)
    again = tmp_path / "again.safetensors"
    export_torch(str(workdir), str(again))
    assert again.read_bytes() == path.read_bytes()


def test_own_layout(run, tmp_path):
    workdir, state = run
    path = tmp_path / "x.safetensors"
    export_torch(str(workdir), str(path), layout="safetensors")
    same(load_file(path), trees.flatten(state.teacher["backbone"]))


def test_metadata(run, tmp_path):
    """Where the weights come from, and nothing of the machine."""
    workdir, _ = run
    path = tmp_path / "x.safetensors"
    export_torch(str(workdir), str(path))
    with safe_open(path, "np") as file:
        said = file.metadata()
    trained = open_trained(str(workdir))
    assert said["step"] == str(STEP) and said["layout"] == "dinov3" and said["format"] == "pt"
    assert said["checkpoint_fingerprint"] == trained.fingerprint
    assert said["data_fingerprint"] and json.loads(said["recipe"])["student.embed_dim"] == 64
    assert not any(key in said["recipe"] for key in ("init.from", "data.source", str(workdir)))


@pytest.mark.slow
def test_a_student_of_several(tmp_path):
    students = (("small", ()), ("wide", (("student.embed_dim", 96),)))
    backbone = {"embed_dim": 64, "depth": 1, "num_heads": 2, "patch_size": 8}
    heads = {"n_prototypes": 64, "hidden_dim": 64, "bottleneck_dim": 16}
    config = small_config(
        distillation__teacher="random",
        distillation__students=students,
        checkpoint__snapshot_every_steps=None,
        **{f"distillation__backbone__{key}": value for key, value in backbone.items()},
        **{f"distillation__{h}_head__{k}": v for h in ("dino", "ibot") for k, v in heads.items()},
    )
    state = make_run(tmp_path / "run", config)
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match=r"several students; use .*run#small, .*run#wide"):
        export_torch(str(tmp_path / "run"), str(path))
    export_torch(f"{tmp_path}/run#wide", str(path))
    expected = state.students["wide"].teacher["backbone"]
    same(from_torch(load_file(path), expected), expected)


@pytest.mark.parametrize(
    ("overrides", "layout", "words"),
    [
        ({}, "dinov2", "lacks DINOv2's position table; use --format=dinov3"),
        ({}, "onnx", "--format=onnx is unknown; use one of dinov3, dinov2, safetensors"),
        ({"student__pos_embed_grid": 2}, "dinov3", "has DINOv2's position table; .*=dinov2"),
    ],
)
def test_layouts_that_do_not_fit(overrides, layout, words):
    backbone = build_backbone(small_config(**overrides), POLICIES["float32"])
    with pytest.raises(ValueError, match=words):
        check_format(layout, backbone)


def test_the_command(run, tmp_path):
    """As a user gives it; what is refused is one sentence and code 2."""
    command = [sys.executable, "-m", "dinojax.export_torch", f"--out={tmp_path}/x.safetensors"]
    options = {"cwd": ROOT, "env": dict(os.environ), "capture_output": True, "text": True}
    done = subprocess.run([*command, f"--checkpoint={run[0]}"], **options)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/x.safetensors" in done.stdout and (tmp_path / "x.safetensors").exists()
