"""Files for others: the EMA teacher, bit for bit, and what they say about it."""

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
from dinojax.backbones.open import open_backbone
from dinojax.backbones.run import open_trained
from dinojax.build.model import build_backbone
from dinojax.export import formats
from dinojax.export.audit import checksum
from dinojax.export.formats import check_format, check_name
from dinojax.export.names import from_torch, to_torch
from dinojax.export_torch import export_torch
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
    audit, written = export_torch(str(workdir / where), str(path))
    official = load_file(path)
    assert {"rope_embed.periods", "blocks.0.attn.qkv.bias_mask"} <= official.keys()
    expected = state.teacher["backbone"]
    same(from_torch(official, expected), expected)
    assert audit.clean() and audit.checksum == checksum(to_torch(expected))
    constants = {name for name in official if name.endswith(("periods", "bias_mask"))}
    assert set(audit.loaded) == official.keys() - constants and not audit.reshaped
    assert written["tensors"] == len(audit.loaded) and written["bytes"] == path.stat().st_size
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


@pytest.mark.parametrize("layout", ["dinov3", "hf", "timm", "safetensors"])
def test_every_format_opens_as_the_same_model(run, tmp_path, layout):
    """Of the settings in its metadata, which are no preset's, and with the same values."""
    workdir, _ = run
    out = tmp_path / ("x" if layout == "hf" else "x.safetensors")
    audit, told = export_torch(str(workdir), str(out), layout=layout)
    opened = open_backbone(str(out))
    assert (
        opened.fingerprint
        == told["checkpoint_fingerprint"]
        == open_trained(str(workdir)).fingerprint
    )
    assert (opened.backbone.embed_dim, opened.images.image_px) == (64, 16)
    assert audit.clean() and sorted(tmp_path.iterdir()) == [out]
    again, _ = export_torch(str(out), str(tmp_path / "again.safetensors"))
    assert again.checksum == audit.checksum


def test_a_hugging_face_folder(run, tmp_path):
    workdir, _ = run
    export_torch(str(workdir), str(tmp_path / "x"), layout="hf")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    expected = {"model_type": "dinov3_vit", "hidden_size": 64, "num_hidden_layers": 1}
    expected |= {"patch_size": 8, "key_bias": False, "query_bias": True, "layer_norm_eps": 1e-5}
    assert {key: config[key] for key in expected} == expected
    preprocessor = json.loads((tmp_path / "x" / "preprocessor_config.json").read_text())
    images = open_trained(str(workdir)).images
    assert preprocessor["image_mean"] == list(images.mean)
    assert preprocessor["size"] == {"height": 16, "width": 16}
    names = load_file(tmp_path / "x" / "model.safetensors").keys()
    assert {"embeddings.cls_token", "layer.0.attention.q_proj.bias"} <= names
    assert "layer.0.attention.k_proj.bias" not in names
    card = (tmp_path / "x" / "README.md").read_text()
    assert "DINOv3ViTModel" in card and "no terms of other weights apply" in card
    export_torch(str(workdir), str(tmp_path / "x"), layout="hf")  # again, in its place
    files = {path.name for path in (tmp_path / "x").iterdir()}
    assert files == {"README.md", "config.json", "preprocessor_config.json", "model.safetensors"}


def test_what_does_not_read_back_gets_no_name(run, tmp_path, monkeypatch):
    """And what was there under the name stays."""
    workdir, _ = run
    path = tmp_path / "x.safetensors"
    export_torch(str(workdir), str(path))
    before, write = path.read_bytes(), formats.FORMATS["dinov3"]

    def damage(path, leaving):
        write(path, leaving)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    # The last byte is one of a constant, which is no parameter.
    monkeypatch.setitem(formats.FORMATS, "dinov3", damage)
    with pytest.raises(RuntimeError, match="does not read back as it was"):
        export_torch(str(workdir), str(path))
    assert path.read_bytes() == before and sorted(tmp_path.iterdir()) == [path]


def test_the_student(run, tmp_path):
    workdir, state = run
    export_torch(str(workdir), str(tmp_path / "x.safetensors"), part="student")
    expected = state.student["backbone"]
    same(from_torch(load_file(tmp_path / "x.safetensors"), expected), expected)


def test_the_heads(run, tmp_path):
    """Under the names of the reference's checkpoints, or as they are here."""
    workdir, state = run
    path = tmp_path / "x.safetensors"
    export_torch(str(workdir), str(path), part="heads")
    official = load_file(path)
    assert {"dino_head.mlp.0.weight", "ibot_head.last_layer.weight"} <= official.keys()
    for head in ("dino_head", "ibot_head"):
        own = {k.removeprefix(f"{head}."): v for k, v in official.items() if k.startswith(head)}
        same(from_torch(own, state.teacher[head]), state.teacher[head])
    export_torch(str(workdir), str(path), part="heads", layout="safetensors")
    heads = {name: state.teacher[name] for name in ("dino_head", "ibot_head")}
    same(load_file(path), trees.flatten(heads))


def test_the_optimizer(run, tmp_path):
    workdir, state = run
    path = tmp_path / "x.safetensors"
    audit, _ = export_torch(str(workdir), str(path), part="optimizer", layout="safetensors")
    expected = trees.flatten({"mu": state.moments.mu, "nu": state.moments.nu})
    same(load_file(path), expected)
    with safe_open(path, "np") as file:
        assert file.metadata()["adam_count"] == str(state.moments.count)
    assert audit.loaded == sorted(expected)


def test_parts_that_are_not_there(run, tmp_path):
    workdir, _ = run
    out = str(tmp_path / "x.safetensors")
    for where in (f"{workdir}/snapshots/{STEP}", "random:vits16"):
        with pytest.raises(ValueError, match=r"--part=heads: .* holds a backbone alone"):
            export_torch(where, out, part="heads")
    with pytest.raises(ValueError, match="--part=optimizer is written as --format=safetensors"):
        export_torch(str(workdir), out, part="optimizer")


@pytest.mark.parametrize(
    ("overrides", "layout", "words"),
    [
        ({}, "dinov2", "lacks DINOv2's position table; use --format=dinov3"),
        ({}, "tflite", "--format=tflite is unknown; use one of dinov3, dinov2, hf, timm"),
        ({"student__pos_embed_grid": 2}, "dinov3", "has DINOv2's position table; .*=dinov2"),
        ({"student__norm_layer": "rmsnorm"}, "hf", "transformers has no .*norm_layer='rmsnorm'"),
        ({"student__norm_layer": "layernorm"}, "timm", "timm .* only with 'layernormbf16'; use"),
        ({"student__untie_cls_and_patch_norms": True}, "timm", "untie_cls_and_patch_norms=True"),
        (
            {"student__pos_embed_rope_normalize_coords": "max"},
            "hf",
            "pos_embed_rope_normalize_coords='max', only with 'separate'; use --format=dinov3",
        ),
    ],
)
def test_layouts_that_do_not_fit(overrides, layout, words):
    backbone = build_backbone(small_config(**overrides), POLICIES["float32"])
    with pytest.raises(ValueError, match=words):
        check_format(layout, backbone)


@pytest.mark.parametrize(
    ("layout", "name", "words"),
    [
        ("dinov3", "x.bin", r"writes a file whose name ends in \.safetensors or \.pth"),
        ("timm", "x.pth", r"ends in \.safetensors"),
        ("onnx", "x.safetensors", r"ends in \.onnx"),
        ("hf", "x.safetensors", "--format=hf writes a folder"),
    ],
)
def test_names_that_do_not_fit(layout, name, words):
    with pytest.raises(ValueError, match=words):
        check_name(layout, Path(name))


def test_the_command(run, tmp_path):
    """As a user gives it; what is refused is one sentence and code 2."""
    command = [sys.executable, "-m", "dinojax.export_torch", f"--out={tmp_path}/x.safetensors"]
    options = {"cwd": ROOT, "env": dict(os.environ), "capture_output": True, "text": True}
    done = subprocess.run([*command, f"--checkpoint={run[0]}", "--json"], **options)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    lists = ("reshaped", "missing", "unexpected")
    assert [told[key] for key in lists] == [[], [], []] and len(told["checksum"]) == 64
    assert f"{tmp_path}/x.safetensors" in done.stdout and (tmp_path / "x.safetensors").exists()
