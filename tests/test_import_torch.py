"""Weights from elsewhere become a snapshot: of the same bits, by whatever reads snapshots."""

import dataclasses
import json
import pickle
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from layouts import LAYOUTS, random_params, write_layout
from marks import slow_but
from safetensors.numpy import load_file, save_file
from small_models import SMALL, add_presets

from dinojax import mesh as meshes
from dinojax.backbones.open import open_backbone
from dinojax.backbones.opened import ImageFormat
from dinojax.backbones.released import open_released
from dinojax.backbones.run import Trained
from dinojax.export.audit import checksum
from dinojax.export.names import to_torch
from dinojax.export.torch_file import TorchFile
from dinojax.export.weights import open_weights
from dinojax.import_torch import import_torch
from dinojax.imported import IMPORTED, backbone_config
from dinojax.runtime.contract import read_contract


@pytest.fixture(scope="module", autouse=True)
def presets():
    with pytest.MonkeyPatch.context() as patch:
        add_presets(patch)
        yield


def file_of(folder, preset="small16", layout="official", **metadata):
    backbone = open_backbone(f"random:{preset}").backbone
    params = random_params(backbone)
    return write_layout(folder / "x.safetensors", layout, backbone, params, **metadata), params


def same(found, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def read(opened):
    mesh = meshes.make_mesh(1, -1)
    with jax.set_mesh(mesh):
        return opened.read(mesh)


@pytest.mark.slow
def test_a_snapshot(tmp_path):
    """Bit for bit, with the same features, images and computation as the file."""
    path, params = file_of(tmp_path, rgb_mean="[0.1, 0.2, 0.3]", rgb_std="[1, 1, 1]", licence="L")
    audit, result = import_torch(str(path), str(tmp_path / "w"))
    assert audit.clean() and audit.checksum == checksum(to_torch(params))
    assert result["features_before"] == result["features_after"]
    assert result["snapshot"] == f"{tmp_path}/w/snapshots/0" and result["model"] == "small16"
    opened, before = open_backbone(result["snapshot"]), open_backbone(str(path))
    assert isinstance(opened, Trained) and opened.backbone == before.backbone
    assert opened.images == before.images == ImageFormat((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert opened.fingerprint == result["fingerprint"] and opened.arch == "small16"
    same(read(opened), params)
    origin = read_contract(tmp_path / "w")[IMPORTED]
    assert origin["file"] == str(path) and origin["licence"] == "L"
    assert origin["checksum"] == audit.checksum
    with pytest.raises(ValueError, match="is there already"):
        import_torch(str(path), str(tmp_path / "w"))


@pytest.mark.parametrize("preset", SMALL)
def test_configurations_say_every_backbone(preset):
    """Also with what a satellite model has otherwise."""
    opened = open_backbone(f"random:{preset}")
    assert backbone_config(opened).student.arch == preset
    if preset == "small16":
        changed = {"untie_global_and_local_cls_norm": True, "pos_embed_rope_base": None}
        changed |= {"pos_embed_rope_min_period": 1.0, "pos_embed_rope_max_period": 9.0}
        other = dataclasses.replace(opened, backbone=opened.backbone.clone(**changed))
        assert backbone_config(other).student.untie_global_and_local_cls_norm
        odd = opened.backbone.clone(layerscale=None)
        with pytest.raises(ValueError, match="no configuration can say"):
            backbone_config(dataclasses.replace(opened, backbone=odd))


@pytest.mark.parametrize("layout", slow_but(["official"], LAYOUTS))
def test_missing_and_left_over(tmp_path, layout):
    """Told, and refused unless each is allowed by name; then initialised, or left out."""
    path, params = file_of(tmp_path, layout=layout)
    tensors = load_file(path)
    gone = next(name for name in ("norm.weight", "norm/scale") if name in tensors)
    del tensors[gone]
    tensors["head.weight"] = np.zeros((3, 4), np.float32)
    save_file(tensors, path)
    allowed = {"missing": ["norm.*"], "unexpected": ["head.weight"]}
    if layout == "timm":
        allowed["missing"].append("mask_token")
    audit, result = import_torch(str(path))
    assert audit.missing == ["mask_token", "norm.weight"][layout != "timm" :]
    assert audit.unexpected == ["head.weight"] and "norm.weight" in result["faults"]
    assert import_torch(str(path), missing=allowed["missing"])[1]["faults"]
    with pytest.raises(ValueError, match=r"--allow_missing=cls_token fits nothing here"):
        import_torch(str(path), missing=["cls_token"])
    found = read(open_released(str(path), **allowed))
    assert (found["norm"]["scale"] == 1).all()
    same(found["blocks"], params["blocks"])


def test_what_features_do_not_need_may_be_missing_in_load(tmp_path):
    """A timm file has no mask token; nothing else may be missing."""
    path, params = file_of(tmp_path, layout="timm")
    tensors = load_file(path)
    save_file(tensors, path)
    found = read(open_backbone(str(path)))
    assert not np.any(found["embed"]["mask_token"])
    same(found["blocks"], params["blocks"])
    del tensors["norm.bias"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"no entry 'norm\.bias'"):
        read(open_backbone(str(path)))


def test_periods_and_masks_are_those_of_the_model(tmp_path):
    """Rounded to bfloat16, as released, or exact; others are of another model."""
    path, params = file_of(tmp_path)
    tensors = load_file(path)
    name = "rope_embed.periods"
    tensors[name] = np.asarray(jax.numpy.asarray(tensors[name], "bfloat16"), np.float32)
    save_file(tensors, path)
    same(read(open_backbone(str(path))), params)
    save_file({**tensors, name: tensors[name] * 1.02}, path)
    with pytest.raises(ValueError, match=r"'rope_embed.periods' are \[1.02, .*\] and the model's"):
        read(open_backbone(str(path)))
    save_file(tensors, path)
    opened = open_released(str(path))
    unmasked = dataclasses.replace(opened, backbone=opened.backbone.clone(mask_k_bias=False))
    with pytest.raises(ValueError, match="keys is masked, and the model's is not"):
        read(unmasked)


def test_a_folder_of_hugging_face(tmp_path):
    """In several files, and normalised as it says."""
    path, params = file_of(tmp_path, layout="huggingface")
    tensors, folder = load_file(path), tmp_path / "folder"
    folder.mkdir()
    names = {name: f"{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for file in ("0.safetensors", "1.safetensors"):
        save_file({n: tensors[n] for n in names if names[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    images = {"image_mean": [0.43, 0.41, 0.3], "image_std": [0.2, 0.2, 0.1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    opened = open_backbone(str(folder))
    same(read(opened), params)
    assert opened.images.mean == (0.43, 0.41, 0.3) and opened.arch == "small16"
    (folder / "config.json").write_text('{"num_attention_heads": 2, "rope_theta": 100.0}')
    same(read(opened), params)
    (folder / "config.json").write_text('{"num_attention_heads": 4, "patch_size": 16}')
    with pytest.raises(ValueError, match=r"config\.json says num_attention_heads=4, .* has 2"):
        read(opened)
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false}')
    images = open_backbone(str(folder)).images
    assert (images.mean, images.std) == ((0.0,) * 3, (1.0,) * 3)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [1, 2], "image_std": 3}')
    with pytest.raises(ValueError, match=r"folder.*what is said of its images is damaged"):
        open_backbone(str(folder))


def test_metadata_that_describes_no_model(tmp_path):
    for recipe in ("{", "[]", '{"student.arch": "vitx"}', '{"student.arch": "small16"}'):
        path, _ = file_of(tmp_path, recipe=recipe)
        with pytest.raises(ValueError, match=r"x\.safetensors: its metadata describes no model"):
            open_backbone(str(path))


@pytest.mark.slow
def test_a_changed_file_of_ours(tmp_path):
    """A transposed square matrix shows by the fingerprint alone, in every reader."""
    path, params = file_of(tmp_path)
    _, result = import_torch(str(path))
    write_layout(
        path,
        "official",
        open_backbone("random:small16").backbone,
        params,
        checkpoint_fingerprint=result["fingerprint"],
    )
    same(read(open_backbone(str(path))), params)
    kernel = params["blocks"]["attn"]["proj"]["kernel"]
    matrix = kernel.reshape(2, 64, 64)
    params["blocks"]["attn"]["proj"]["kernel"] = matrix.swapaxes(1, 2).reshape(kernel.shape)
    other = open_backbone("random:small16").backbone
    write_layout(path, "official", other, params, checkpoint_fingerprint=result["fingerprint"])
    with pytest.raises(ValueError, match=r"x\.safetensors .*values have changed since"):
        read(open_backbone(str(path)))


class Fake:
    """As much of PyTorch as reading takes."""

    strided = "strided"

    class Tensor:
        def __init__(self, value):
            self.value, self.dtype, self.shape = value, f"torch.{value.dtype.name}", value.shape
            self.layout, self.device = "strided", SimpleNamespace(type="cpu")

        def detach(self):
            return self

        def numpy(self):
            return self.value

    def __init__(self, content):
        self.content, self.asked = content, []

    def load(self, path, **options):
        self.asked.append(options)
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


def with_torch(monkeypatch, content) -> Fake:
    fake = Fake(content)
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


def test_files_of_pytorch_are_read_on_request(tmp_path, monkeypatch):
    """By its own reader, which runs no code; a dump of its training, too."""
    path, params = file_of(tmp_path)
    state = {name: Fake.Tensor(value) for name, value in load_file(path).items()}
    fake = with_torch(monkeypatch, {"teacher": {f"backbone.{n}": t for n, t in state.items()}})
    pth = tmp_path / "x.pth"
    pth.write_bytes(b"whatever")
    with pytest.raises(ValueError, match=r"python -m dinojax.import_torch .*x\.pth --allow_pth"):
        open_backbone(str(pth))
    assert not fake.asked
    same(read(open_released(str(pth), allow_pth=True)), params)
    assert all(options["weights_only"] is True for options in fake.asked)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.UnpicklingError("Unsupported global: GLOBAL os.system"), "holds more than tensors"),
        (EOFError("Ran out of input"), "is damaged or holds more"),
        ({}, "holds no state dict"),
        ([1], "holds no state dict"),
        ({"model": {"a": 3}}, "'a' is int, not a tensor"),
        ({3: Fake.Tensor(np.ones(1))}, "3 is Tensor, not a tensor"),
    ],
)
def test_what_pytorch_refuses(tmp_path, monkeypatch, content, words):
    with_torch(monkeypatch, content)
    path = tmp_path / "x.pth"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"x\.pth.*{words}"):
        TorchFile(path)


def test_without_pytorch(tmp_path, monkeypatch):
    (tmp_path / "x.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"which is not installed; pip install torch"):
        open_weights(f"{tmp_path}/x.pth", allow_pth=True)
    with pytest.raises(FileNotFoundError, match="no file"):
        open_weights(f"{tmp_path}/y.pth", allow_pth=True)


@pytest.mark.slow
def test_the_command(tmp_path):
    """JSON with the audit, and exit codes that a script can go by."""

    def run(*arguments: str):
        command = [sys.executable, "-m", "dinojax.import_torch", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    export = [sys.executable, "-m", "dinojax.export_torch", "--checkpoint=random:vits16"]
    subprocess.run([*export, "--out=x.safetensors"], cwd=tmp_path, check=True)
    done = run("x.safetensors", "--out=w", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["features_before"] == told["features_after"] and told["snapshot"]
    assert told["missing"] == told["unexpected"] == [] and len(told["loaded"]) == 175
    tensors = load_file(tmp_path / "x.safetensors")
    tensors["odd"] = tensors.pop("norm.bias")
    save_file(tensors, tmp_path / "y.safetensors")
    done = run("y.safetensors", "--json")
    assert done.returncode == 2 and json.loads(done.stdout)["missing"] == ["norm.bias"]
    done = run("y.safetensors", "--allow_missing=norm.bias", "--allow_unexpected=odd")
    assert done.returncode == 0 and "unexpected     1  odd" in done.stdout
    done = run("none.safetensors")
    assert done.returncode == 2 and "there is no file none.safetensors" in done.stderr
