"""Weights of every layout, accounted for and read part by part onto meshes."""

import goldens
import jax
import ml_dtypes
import numpy as np
import pytest
from layouts import LAYOUTS, random_params, small, write_layout
from reference import convnext_from_options, vit_from_options
from safetensors.numpy import load_file, save_file

from dinojax import mesh as meshes
from dinojax.export.audit import checksum
from dinojax.export.incoming import Incoming
from dinojax.export.names import from_torch, to_torch
from dinojax.export.weights import open_weights
from dinojax.models.presets import backbone_shapes
from dinojax.runtime.checkpoint import abstract

PRESETS = ("vits16", "vits16plus", "vits14", "vits14_reg", "vitg14_reg", "convnext_tiny")


def wanted(like, *sizes: int):
    mesh = meshes.make_mesh(*(sizes or (1, 1, 1)), devices=jax.devices()[: np.prod(sizes or (1,))])
    return abstract(like, meshes.shardings(mesh, like))


def same(found, expected) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_layout(tmp_path, preset, layout):
    """Sniffed, nothing missing or left over, bit for bit; and one checksum for all of them."""
    backbone = small(preset)
    params = random_params(backbone)
    path = write_layout(tmp_path / "x.safetensors", layout, backbone, params)
    weights = open_weights(str(path))
    assert weights.layout == layout
    incoming = Incoming(weights, params)
    incoming.check()
    same(incoming.place(wanted(params)), params)
    audit, official = incoming.audit(), to_torch(params)
    assert audit.checksum == checksum(official) and audit.loaded == sorted(official)
    assert set(audit.reshaped) <= set(official)
    if layout in ("official", "dinojax"):
        assert bool(audit.reshaped) == (layout == "dinojax")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", [(2, 4), (1, 8), (1, 4, 2)])
def test_onto_a_mesh(tmp_path, layout, sizes):
    """Each device gets its part, of the file's values widened exactly."""
    backbone = small("vits16plus")
    half = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), random_params(backbone))
    path = write_layout(tmp_path / "x.safetensors", layout, backbone, half)
    like = wanted(backbone_shapes(backbone, 3), *sizes)
    found = Incoming(open_weights(str(path)), like).place(like)
    same(found, jax.tree.map(lambda x: x.astype(np.float32), half))
    gate = found["blocks"]["mlp"]["w1"]["kernel"]
    assert gate.sharding == like["blocks"]["mlp"]["w1"]["kernel"].sharding
    assert gate.addressable_shards[0].data.size < gate.size


@pytest.mark.golden
@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in ("vit3/", "dinov2/", "convnext/")
        for path in goldens.files(folder, ".state.safetensors")
        if "class_" in goldens.options(path)
    ],
)
def test_golden_files(path):
    """State dicts of the reference itself: chunks, masks and constants are understood."""
    options = dict(goldens.options(path))
    options.pop("drop_path_rate", None)
    build = convnext_from_options if path.startswith("convnext/") else vit_from_options
    like = backbone_shapes(build(options), options.get("in_chans", 3))
    incoming = Incoming(open_weights(str(goldens.ROOT / path)), like)
    incoming.check()
    same(incoming.place(wanted(like)), from_torch(goldens.arrays(path), like))


def official(tmp_path, change, preset: str = "vits16"):
    backbone = small(preset)
    params = random_params(backbone)
    path = write_layout(tmp_path / "x.safetensors", "official", backbone, params)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return Incoming(open_weights(str(path)), params), params


def test_a_training_dump(tmp_path):
    """Prefixes are taken off, heads are told apart; so are chunks of blocks."""

    def change(tensors):
        for name in list(tensors):
            chunked = name.replace("blocks.1.", "blocks.0.1.")
            tensors[f"module.backbone.{chunked}"] = tensors.pop(name)
        tensors["module.dino_head.mlp.0.weight"] = np.zeros(3, np.float32)

    incoming, params = official(tmp_path, change)
    assert incoming.unexpected == ["dino_head.mlp.0.weight"]
    incoming.check(unexpected=["dino_head.*"])
    same(incoming.place(wanted(params)), params)


def test_masks_of_released_files(tmp_path):
    """Theirs are zero everywhere, and so is the bias whatever is stored."""

    def change(tensors):
        tensors["blocks.0.attn.qkv.bias_mask"][:] = 0
        tensors["blocks.1.attn.qkv.bias_mask"][3] = 0

    incoming, params = official(tmp_path, change)
    bias = incoming.place(wanted(params))["blocks"]["attn"]["qkv"]["bias"]
    assert not np.any(bias[0])
    expected = params["blocks"]["attn"]["qkv"]["bias"][1].copy()
    expected.reshape(-1)[3] = 0
    np.testing.assert_array_equal(bias[1], expected)

    def break_mask(tensors):
        tensors["blocks.0.attn.qkv.bias_mask"][5] = np.nan

    incoming, params = official(tmp_path, break_mask)
    with pytest.raises(ValueError, match=r"'blocks.0.attn.qkv.bias_mask' is no mask"):
        incoming.place(wanted(params))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("drop", r"it has no entry 'blocks\.1\.mlp\.fc1\.weight'"),
        ("rename", r"no entry 'blocks\.1\.mlp\.fc1\.weight'; it has 1 entries .* 'fc1_weight'"),
        ("transpose", r"'blocks\.1\.mlp\.fc1\.weight' has shape \(64, 256\), not .* \(256, 64\)"),
        ("int8", r"'blocks\.1\.mlp\.fc1\.weight' is I8, not floating point"),
        ("float64", r"'blocks\.1\.mlp\.fc1\.weight' is F64, which float32 would round"),
    ],
)
def test_changed_keys_are_named(tmp_path, how, words):
    name = "blocks.1.mlp.fc1.weight"

    def change(tensors):
        value = tensors.pop(name)
        if how == "rename":
            tensors["fc1_weight"] = value
        elif how == "transpose":
            tensors[name] = np.ascontiguousarray(value.T)
        elif how != "drop":
            tensors[name] = value.astype(how)

    with pytest.raises(ValueError, match=words):
        incoming, params = official(tmp_path, change)
        incoming.check()
        incoming.place(wanted(params))


@pytest.mark.parametrize("layout", ["huggingface", "timm"])
def test_a_dropped_bias_is_not_taken_for_zero(tmp_path, layout):
    """Layouts leave out biases that are zero in all layers, not in one."""
    backbone = small("vits16")
    params = random_params(backbone)
    path = write_layout(tmp_path / "x.safetensors", layout, backbone, params)
    tensors = load_file(path)
    (name,) = (n for n in tensors if "1." in n and n.endswith(("q_proj.bias", "attn.q_bias")))
    del tensors[name]
    save_file(tensors, path)
    incoming = Incoming(open_weights(str(path)), params)
    assert "blocks.1.attn.qkv.bias" in incoming.missing and len(incoming.unexpected) == 1


def test_timm_without_biases(tmp_path):
    """Its models without are those whose biases of q, k and v are zero."""
    backbone = small("vits16")
    params = random_params(backbone)
    params["blocks"]["attn"]["qkv"]["bias"][:] = 0
    path = write_layout(tmp_path / "x.safetensors", "timm", backbone, params)
    tensors = {n: x for n, x in load_file(path).items() if not n.endswith(("q_bias", "v_bias"))}
    save_file(tensors, path)
    incoming = Incoming(open_weights(str(path)), params)
    assert incoming.missing == ["mask_token"] and incoming.unexpected == []
    assert "blocks.0.attn.qkv.bias" in incoming.audit().reshaped
    found = incoming.place(wanted(params), lambda path: np.ones((64,), np.float32))
    params["embed"]["mask_token"] = np.ones((64,), np.float32)
    same(found, params)


def test_allowances_are_by_name(tmp_path):
    def change(tensors):
        tensors["odd.weight"] = tensors.pop("norm.weight")

    incoming, params = official(tmp_path, change)
    for allowed in ({}, {"missing": ["norm.*"]}, {"unexpected": ["odd.weight"]}):
        with pytest.raises(ValueError, match="it has"):
            incoming.check(**allowed)
    incoming.check(missing=["norm.*"], unexpected=["odd.weight"])
    found = incoming.place(wanted(params), lambda path: np.full((64,), 7, np.float32))
    assert (found["norm"]["scale"] == 7).all()
