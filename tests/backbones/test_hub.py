"""Released models by name: which id that is, and plain words where nothing can be fetched."""

import json
import sys
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file, save_file
from small_models import add_presets

from dinojax.backbones import hub
from dinojax.backbones.hub import HUB, is_hub_id, release_of
from dinojax.backbones.names import RELEASES, Release
from dinojax.backbones.open import open_backbone
from dinojax.export_torch import export_torch


@pytest.mark.parametrize(
    ("name", "hub_id"),
    [
        ("dinov3_vits16", "facebook/dinov3-vits16-pretrain-lvd1689m"),
        ("dinov3_vit7b16_sat493m", "facebook/dinov3-vit7b16-pretrain-sat493m"),
        ("dinov3_convnext_tiny", "facebook/dinov3-convnext-tiny-pretrain-lvd1689m"),
        ("dinov2_vitg14", "facebook/dinov2-giant"),
        ("dinov2_vits14_reg", "facebook/dinov2-with-registers-small"),
    ],
)
def test_ids(name, hub_id):
    assert HUB[name] == hub_id and release_of(hub_id) == name and is_hub_id(hub_id)
    assert len(set(HUB.values())) == len(RELEASES)
    assert release_of("hf-hub:someone/other") is None and is_hub_id("hf-hub:someone/other")
    assert not is_hub_id("runs/x") and not is_hub_id("runs/dinov3_x")


def client(monkeypatch, download) -> None:
    module = SimpleNamespace(hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


@pytest.mark.parametrize("given", ["dinov3_vits16", "facebook/dinov3-vits16-pretrain-lvd1689m"])
def test_what_is_fetched_is_opened_as_that_model(monkeypatch, tmp_path, given):
    add_presets(monkeypatch)
    path = tmp_path / "model.safetensors"
    export_torch("random:small16", str(path))
    save_file(load_file(path), path)
    small = Release("dinov3_vits16", "small16")
    monkeypatch.setattr("dinojax.backbones.released.find_release", lambda name: small)
    asked = []
    client(monkeypatch, lambda *what: asked.append(what) or str(path))
    opened = open_backbone(given)
    assert asked == [("facebook/dinov3-vits16-pretrain-lvd1689m", "model.safetensors")]
    assert (
        opened.arch == "small16"
        and opened.fingerprint == open_backbone("random:small16").fingerprint
    )


class EntryNotFoundError(Exception):
    """As the client calls it."""


def test_a_model_in_several_files(monkeypatch, tmp_path):
    """Those of its index; other errors are not taken for their sign."""
    names = {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    asked = []

    def download(hub_id, name):
        asked.append(name)
        if name == "model.safetensors":
            raise EntryNotFoundError("404")
        return str(tmp_path / name)

    client(monkeypatch, download)
    assert hub.fetch("facebook/dinov3-vit7b16-pretrain-lvd1689m") == str(index)
    assert asked == ["model.safetensors", index.name, "1.safetensors", "2.safetensors"]


def test_a_folder(monkeypatch, tmp_path):
    """As `save_pretrained` leaves it, by itself and as the weights of a name."""
    add_presets(monkeypatch)
    export_torch("random:small16", f"{tmp_path}/model.safetensors")
    expected = open_backbone(f"{tmp_path}/model.safetensors").fingerprint
    assert open_backbone(str(tmp_path)).fingerprint == expected
    assert open_backbone("small16", weights=str(tmp_path)).fingerprint == expected


def test_without_a_network(monkeypatch):
    def refuse(*_):
        raise OSError("no route\nto host")

    client(monkeypatch, refuse)
    words = r"facebook/dinov2-base cannot be fetched .*OSError: no route to host\).* weights=PATH"
    with pytest.raises(ValueError, match=words):
        open_backbone("dinov2_vitb14")


def test_without_the_client(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(hub.importlib, "import_module", absent)
    with pytest.raises(ValueError, match=r"huggingface_hub is not installed; .*weights=PATH"):
        open_backbone("dinov3_vits16")


def test_unknown_names_are_no_downloads():
    with pytest.raises(ValueError, match="'dinov3_vits17' is no released model"):
        open_backbone("dinov3_vits17")
