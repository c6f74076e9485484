"""Every backbone of full width leaves in every format, and stock code computes its features.

Random weights, two image sizes of which one is not square, all blocks; depth is reduced.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import peers

from dinojax.backbones.opened import ImageFormat
from dinojax.export import onnx_file
from dinojax.export.audit import checksum
from dinojax.export.formats import FORMATS, Leaving, read_back
from dinojax.export.names import from_torch
from dinojax.export.staged import staged
from dinojax.export.timm_model import timm_model
from dinojax.models.presets import PRESETS, Backbone, backbone_shapes
from dinojax.precision import POLICIES
from dinojax.trees import map_named

pytestmark = pytest.mark.parity

EVERY = peers.wide_ones_are_slow({name: name for name in PRESETS})
VITS = [name for name in PRESETS if not name.startswith("convnext")]
IMAGES = ImageFormat(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), image_px=224)


def leaving(name: str, layout: str) -> Leaving:
    """A preset of full width, with weights of which no term is zero, one or negligible.

    DINOv2's position tables are resampled here as each library does it.
    """
    preset = PRESETS[name]
    if name.startswith("convnext"):
        changes = {"depths": peers.CONVNEXT_DEPTHS}
    else:
        changes = {"depth": peers.DEPTH.get(name, 2)}
        if "pos_embed_grid" in preset.model:
            antialias = layout == "timm" or "n_storage_tokens" in preset.model
            changes |= {"pos_embed_grid": peers.TABLE}
            if layout != "onnx":
                changes |= {"interpolate_offset": 0.0, "interpolate_antialias": antialias}
    backbone = preset.build(POLICIES["float32"], **changes)
    rng = np.random.default_rng(0)

    def draw(path: str, leaf) -> np.ndarray:
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        if path.endswith("gamma"):
            return 0.5 + 0.25 * noise
        if path.endswith("scale"):
            return 1 + 0.2 * noise
        if path.endswith("bias"):
            return 0.15 * noise
        if "token" in path or "pos_embed" in path:
            return 0.5 * noise
        fan_in = leaf.size // leaf.shape[-1] // (leaf.shape[0] if "block" in path else 1)
        if "qkv" in path:
            fan_in = leaf.shape[1]
        elif "proj/kernel" in path and "attn" in path:
            fan_in = leaf.shape[1] * leaf.shape[2]
        elif path.startswith("stage_"):
            fan_in = leaf.size // leaf.shape[0] // leaf.shape[-1]
        return noise / fan_in**0.5

    params = map_named(draw, backbone_shapes(backbone, 3))
    said = {"rgb_mean": json.dumps(IMAGES.mean), "rgb_std": json.dumps(IMAGES.std)}
    return Leaving(backbone, params, IMAGES, said)


def small(name: str, **changes) -> Leaving:
    """A preset at toy size, with normal weights."""
    sizes = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 4}
    backbone = PRESETS[name].build(POLICIES["float32"], **sizes, **changes)
    like, rng = backbone_shapes(backbone, 3), np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32), like)
    return Leaving(backbone, params, IMAGES, {})


def written(name: str, layout: str, path: Path) -> Leaving:
    """Written and read back bit for bit: the audit has no exceptions."""
    one = leaving(name, layout)
    FORMATS[layout](path, one)
    audit = read_back(layout, path, one)
    assert audit.clean() and audit.checksum == checksum(one.state)
    return one


def ours(one: Leaving, images: np.ndarray) -> list:
    """Features of all blocks, of which the last are the model's own."""
    backbone: Backbone = one.backbone
    x = jnp.asarray(images.transpose(0, 2, 3, 1))[None]
    layers = tuple(range(4 if hasattr(backbone, "depths") else backbone.depth))

    @jax.jit
    def run(params, x):
        return backbone.apply({"params": params}, x, layers, method="intermediate")

    return run(jax.tree.map(jnp.asarray, one.params), x)


def tokens(features) -> np.ndarray:
    parts = (features.cls[0][:, None], features.registers[0], features.patches[0])
    return np.concatenate([np.asarray(part) for part in parts], axis=1)


def near(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found).mean() > 0.1, "a trivial model proves nothing"
    np.testing.assert_allclose(found, expected, rtol=0, atol=peers.ATOL)


@EVERY
def test_transformers(name, tmp_path):
    import torch

    transformers = peers.import_transformers()
    one = written(name, "hf", tmp_path / "x")
    module, info = transformers.AutoModel.from_pretrained(tmp_path / "x", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    final = getattr(module, "norm", None) or getattr(module, "layernorm", None)
    for images in peers.random_images(name):
        with torch.no_grad():
            found = module(torch.from_numpy(images), output_hidden_states=True)
            blocks = found.hidden_states[1:] if name in VITS else ()
            normed = [final(block).numpy() for block in blocks]
        expected = [tokens(one) for one in ours(one, images)]
        near(found.last_hidden_state.numpy(), expected[-1])
        assert len(normed) == (len(expected) if name in VITS else 0)
        for theirs, block in zip(normed, expected, strict=False):
            near(theirs, block)


def test_image_processor(tmp_path):
    """Normalises as the run did, at the size of its evaluations."""
    from PIL import Image

    transformers = peers.import_transformers()
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    for name in ("vits16", "vits14", "convnext_tiny"):
        one = leaving(name, "hf")
        small = dataclasses.replace(one.images, image_px=224)
        FORMATS["hf"](tmp_path / name, dataclasses.replace(one, images=small))
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / name)
        found = processor(images=Image.fromarray(pixels), return_tensors="np")["pixel_values"]
        assert found.shape == (1, 3, 224, 224)
        if name != "vits14":  # which takes the centre of a larger image
            expected = (pixels / 255 - np.array(IMAGES.mean)) / np.array(IMAGES.std)
            np.testing.assert_allclose(found[0].transpose(1, 2, 0), expected, atol=1e-5)


@EVERY
def test_timm(name, tmp_path):
    import torch

    path = tmp_path / "x.safetensors"
    one = written(name, "timm", path)
    entry, arguments = timm_model(one.backbone, one.images)
    module = peers.import_timm().create_model(
        entry, **json.loads(json.dumps(arguments)), checkpoint_path=path
    )
    module.eval()
    for images in peers.random_images(name):
        expected = ours(one, images)
        with torch.no_grad():
            given = torch.from_numpy(images)
            if name.startswith("convnext"):
                maps = module.forward_features(given)
                near(maps.flatten(2).transpose(1, 2).numpy(), np.asarray(expected[-1].prenorm[0]))
                near(module(given).numpy(), np.asarray(expected[-1].cls[0]))
                continue
            near(module.forward_features(given).numpy(), tokens(expected[-1]))
            near(module(given).numpy(), np.asarray(expected[-1].cls[0]))
            blocks = module.forward_intermediates(
                given,
                norm=True,
                output_fmt="NLC",
                return_prefix_tokens=True,
                intermediates_only=True,
            )
        for (patches, prefix), features in zip(blocks, expected, strict=True):
            near(np.concatenate([prefix, patches], axis=1), tokens(features))


@pytest.mark.parametrize("name", ["vits16", "vits16plus", "vits14", "vits14_reg", "vitg14_reg"])
def test_timm_makes_the_same_of_the_official_file(name, tmp_path):
    """Its own conversion of released files, which drops what we keep in the header."""
    import torch
    from safetensors.torch import load_file

    timm = peers.import_timm()
    one = small(name, **({"pos_embed_grid": 3} if "14" in name else {}))
    FORMATS["timm"](tmp_path / "x.safetensors", one)
    entry, arguments = timm_model(one.backbone, IMAGES)
    module = timm.create_model(entry, **arguments)
    convert = timm.models.vision_transformer if "14" in name else timm.models.eva
    official = {key: torch.from_numpy(value.copy()) for key, value in one.official.items()}
    expected = convert.checkpoint_filter_fn(official, module)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == expected.keys() == module.state_dict().keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value.reshape(found[key].shape)), key


@pytest.mark.parametrize("name", ["vits16", "vits16plus", "vitb16", "vits14", "vits14_reg"])
def test_presets_have_their_own_names_in_timm(name):
    entry, arguments = timm_model(PRESETS[name].build(POLICIES["float32"]), IMAGES)
    assert not arguments.keys() - {"num_classes", "global_pool", "dynamic_img_size"}
    module = peers.import_timm().create_model(entry, **arguments)
    count = PRESETS[name].parameters
    less = PRESETS[name].model["embed_dim"]  # the mask token, and keys' biases or CLS's position
    less *= 1 + (12 if "pos_embed_grid" not in PRESETS[name].model else name.endswith("reg"))
    assert sum(value.numel() for value in module.parameters()) == count - less


@EVERY
def test_onnx(name, tmp_path):
    """ONNX Runtime, of any batch and size, also where positions are resampled by our own rule."""
    import onnxruntime

    path = tmp_path / "x.onnx"
    one = written(name, "onnx", path)
    session = onnxruntime.InferenceSession(path)
    assert [value.name for value in session.get_outputs()] == ["cls", "registers", "patches"]
    for images in [*peers.random_images(name), peers.random_images(name)[1][:1]]:
        found = session.run(None, {"images": images})
        expected = ours(one, images)[-1]
        near(found[0], np.asarray(expected.cls[0]))
        np.testing.assert_allclose(found[1], expected.registers[0], rtol=0, atol=peers.ATOL)
        rows, columns = (side // one.backbone.stride for side in images.shape[2:])
        assert found[2].shape[1:3] == (rows, columns)
        near(found[2].reshape(len(images), rows * columns, -1), np.asarray(expected.patches[0]))


@pytest.mark.parametrize(
    "changes",
    [
        {"untie_cls_and_patch_norms": True, "norm_layer": "rmsnorm", "layerscale": None},
        {"pos_embed_rope_normalize_coords": "max", "qkv_bias": False, "proj_bias": False},
        {"pos_embed_rope_normalize_coords": "min", "mask_k_bias": False},
        {"pos_embed_grid": 5, "mask_k_bias": False},
        {"pos_embed_grid": 3, "interpolate_offset": 0.0, "interpolate_antialias": True},
    ],
)
def test_onnx_of_other_settings(changes, tmp_path):
    """Which the other formats do not have."""
    import onnxruntime

    one, rng = small("vits16", **changes), np.random.default_rng(1)
    FORMATS["onnx"](tmp_path / "x.onnx", one)
    assert read_back("onnx", tmp_path / "x.onnx", one).clean()
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    for rows, columns in ((5, 5), (2, 7), (8, 3)):
        images = rng.normal(size=(2, 3, 4 * rows, 4 * columns)).astype(np.float32)
        found = session.run(None, {"images": images})
        expected = ours(one, images)[-1]
        near(found[0], np.asarray(expected.cls[0]))
        near(found[2].reshape(2, rows * columns, -1), np.asarray(expected.patches[0]))


def test_many_weights_are_in_a_file_beside(tmp_path, monkeypatch):
    """As a protocol buffer cannot hold them; both get their names at the end."""
    import onnxruntime

    monkeypatch.setattr(onnx_file, "BESIDE_BYTES", 0)
    one = small("vits16")
    with staged(tmp_path / "x.onnx") as path:
        FORMATS["onnx"](path, one)
        read_back("onnx", path, one)
        assert not (tmp_path / "x.onnx").exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.onnx", "x.onnx.data"]
    assert (tmp_path / "x.onnx").stat().st_size < (tmp_path / "x.onnx.data").stat().st_size
    images = np.random.default_rng(1).normal(size=(1, 3, 8, 12)).astype(np.float32)
    found = onnxruntime.InferenceSession(tmp_path / "x.onnx").run(None, {"images": images})
    near(found[0], np.asarray(ours(one, images)[-1].cls[0]))


@pytest.mark.parametrize("name", ["vits16", "vits14_reg", "convnext_tiny"])
def test_a_file_of_pytorch(name, tmp_path):
    """Of tensors alone, under the official names with the constants of a released file."""
    import torch

    layout = "dinov2" if "14" in name else "dinov3"
    one = written(name, layout, tmp_path / "x.pth")
    state = torch.load(tmp_path / "x.pth", weights_only=True)
    assert state.keys() == one.official.keys()
    like = backbone_shapes(one.backbone, 3)
    arrays = {key: value.numpy() for key, value in state.items()}
    jax.tree.map(np.testing.assert_array_equal, from_torch(arrays, like), one.params)
