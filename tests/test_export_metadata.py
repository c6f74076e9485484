"""Terms of weights travel with all that is made from them."""

import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file
from trained_runs import make_run, small_config

from dinojax.backbones.open import open_backbone
from dinojax.export_metadata import licences
from dinojax.export_torch import export_torch

DINOV3 = "dinov3_vits16_pretrain_lvd1689m-08c60483.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Runs made from a released DINOv3 file, by one another, and from a file that says nothing."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "scratch", small_config())
    for name in (DINOV3, "found.safetensors"):
        export_torch(str(folder / "scratch"), str(folder / name))
        strip(folder / name)
    for name, start in (("first", DINOV3), ("second", "first"), ("found", "found.safetensors")):
        started_from(folder / "scratch", folder / name, folder / start)
    return folder


def started_from(run, copy, start) -> None:
    """A run that says it began with other weights, though its values are the same."""
    shutil.copytree(run, copy)
    contract = json.loads((copy / "config.json").read_text())
    assert contract["config"]["init"]["from"] is None
    contract["config"]["init"]["from"] = str(start)
    (copy / "config.json").write_text(json.dumps(contract))


def strip(path) -> None:
    """As other code writes files: without metadata."""
    save_file(load_file(path), path)


@pytest.mark.parametrize("run", ["first", "second"])
def test_a_run_has_the_terms_of_what_it_started_from(files, run):
    """Also through a run between them."""
    found = licences(open_backbone(str(files / run)))
    assert found["licence"] == "DINOv3 License"
    assert DINOV3 in found["licence_notice"] and "dinov3-license" in found["licence_notice"]
    assert str(files) not in found["licence_notice"]


def test_exports_carry_them_on(files, tmp_path):
    out = tmp_path / "x.safetensors"
    export_torch(str(files / "second"), str(out))
    found = licences(open_backbone(str(out)))
    assert found == licences(open_backbone(str(files / "second")))
    export_torch(str(files / "first"), str(tmp_path / "folder"), layout="hf")
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "license: other" in card and "DINOv3 License" in card


def test_unknown_terms_are_said_to_be_unknown(files):
    found = licences(open_backbone(str(files / "found")))
    assert found["licence"] == "unknown"
    assert "found.safetensors: unknown terms" in found["licence_notice"]


def test_random_weights_and_runs_from_them_have_none(files):
    assert "licence" not in licences(open_backbone("random:vits16"))
    found = licences(open_backbone(str(files / "scratch")))
    assert found == {
        "licence_notice": "Trained from random weights: no terms of other weights apply to it."
    }
