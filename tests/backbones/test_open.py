"""Whatever is named, its parameters are those that lie there; on any mesh, with one fingerprint."""

import jax
import numpy as np
import pytest
from marks import slow_but
from safetensors.numpy import load_file, save_file
from small_models import add_presets
from trained_runs import make_run, small_config

from dinojax import mesh as meshes
from dinojax.backbones.open import open_backbone
from dinojax.backbones.run import Trained
from dinojax.build.model import build_backbone
from dinojax.export_torch import export_torch
from dinojax.models.presets import PRESETS, backbone_shapes, layer_count
from dinojax.precision import get_precision


@pytest.fixture(autouse=True)
def presets(monkeypatch):
    add_presets(monkeypatch)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = small_config(crops__rgb_mean=(0.1, 0.2, 0.3))
    return workdir, make_run(workdir, config)


def read(opened, *sizes: int):
    mesh = meshes.make_mesh(*(sizes or (1, -1)), devices=jax.devices()[: np.prod(sizes or (8,))])
    with jax.set_mesh(mesh):
        return opened.read(mesh)


def same(found, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("where", ["", "checkpoints/3", "snapshots/3"])
def test_a_run(run, where):
    workdir, state = run
    opened = open_backbone(str(workdir / where))
    assert isinstance(opened, Trained) and opened.step == 3
    same(read(opened), state.teacher["backbone"])
    assert opened.images.mean == (0.1, 0.2, 0.3) and opened.images.image_px == 16
    assert opened.backbone == build_backbone(small_config(), get_precision("float32"))
    fast = open_backbone(str(workdir / where), precision="bfloat16").backbone
    assert fast == build_backbone(small_config(), get_precision("bfloat16"))


def test_an_exported_file_says_what_it_is(run, tmp_path):
    """Its model is no preset; it opens without a name, to the same values and fingerprint."""
    path = tmp_path / "x.safetensors"
    export_torch(str(run[0]), str(path))
    opened, trained = open_backbone(str(path)), open_backbone(str(run[0]))
    same(read(opened), run[1].teacher["backbone"])
    assert opened.fingerprint == trained.fingerprint and opened.images == trained.images
    assert opened.origin["step"] == "3" and opened.arch == trained.arch
    again = tmp_path / "again.safetensors"
    export_torch(str(path), str(again))
    same(load_file(again), load_file(path))
    for name in ("dinov3_mine.safetensors", "dinov3_vits16.safetensors"):
        renamed = path.rename(tmp_path / name)
        assert open_backbone(str(renamed)).backbone == opened.backbone
        path = renamed


@pytest.mark.parametrize("preset", slow_but(["small16"], ["small16", "small14_reg"]))
def test_official_files(tmp_path, preset):
    """By entries, by a name behind it, and by a name beside it."""
    path = tmp_path / "x.safetensors"
    own = "dinov2" if preset == "small14_reg" else "dinov3"
    export_torch(f"random:{preset}@5", str(path), layout=own)
    save_file(load_file(path), path)  # without what we say about it
    found = [open_backbone(str(path)), open_backbone(f"{path}#{preset}")]
    found.append(open_backbone(preset, weights=str(path)))
    expected = open_backbone(f"random:{preset}@5")
    for opened in found:
        assert opened.backbone == expected.backbone and opened.arch == preset
        assert opened.fingerprint == expected.fingerprint
    with pytest.raises(ValueError, match=r"x\.safetensors does not hold a vits16: "):
        read(open_backbone("dinov3_vits16", weights=str(path)))


def test_random_weights_are_a_function_of_the_seed():
    one, other = open_backbone("random:small16"), open_backbone("random:small16@1")
    params = read(one, 2, 4)
    same(params, read(open_backbone("random:small16@0"), 1, 1))
    assert not params["blocks"]["mlp"]["fc1"]["kernel"].sharding.is_fully_replicated
    assert len({one.fingerprint, other.fingerprint}) == 2
    assert layer_count(one.backbone) == 2


def test_pixels():
    """Patches are their pixels; CLS is the image at 32 px, without its mean."""
    opened = open_backbone("pixels")
    assert read(opened) == {} and opened.images.mean == (0, 0, 0)
    images = jax.random.uniform(jax.random.key(0), (1, 2, 64, 64, 3))
    (found,) = opened.backbone.apply({"params": {}}, images)  # type: ignore
    np.testing.assert_array_equal(found.patches[0, 0, 9].reshape(8, 8, 3), images[0, 0, 8:16, 8:16])
    assert found.patches.shape == (1, 2, 64, 192) and found.registers.shape[2] == 0
    assert found.cls.shape == (1, 2, 32 * 32 * 3)
    np.testing.assert_allclose(found.cls.mean(-1), 0, atol=1e-6)
    corner = images[0, 0, :2, :2].mean((0, 1)) - images[0, 0].mean()
    assert np.corrcoef(found.cls[0, 0].reshape(32, 32, 3)[0, 0], corner)[0, 1] > 0.5
    (small,) = opened.backbone.apply({"params": {}}, images[:, :, :32, :32])  # type: ignore
    expected = images[0, :, :32, :32].reshape(2, -1)
    np.testing.assert_allclose(
        small.cls[0], expected - expected.mean(-1, keepdims=True), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("random:vitx", "arch='vitx' is not a preset"),
        ("random:small16@x", "the seed 'x' is no number; use random:small16@0"),
        ("weights.pth", "is a program that builds tensors.*import_torch weights.pth --allow_pth"),
    ],
)
def test_what_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        open_backbone(given)


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        open_backbone(f"{tmp_path}/x.safetensors")
    with pytest.raises(FileNotFoundError, match=r"checkpoint=.* has no checkpoint in"):
        open_backbone(f"{tmp_path}/run")


@pytest.mark.parametrize("name", ["vits14_reg", "vits16", "convnext_tiny"])
def test_shapes_of_presets(name):
    shapes = backbone_shapes(PRESETS[name].build(get_precision("float32")), 3)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PRESETS[name].parameters
