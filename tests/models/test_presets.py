"""Presets against the published state dicts, and parameter counts against a closed formula."""

import dataclasses

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import trees
from dinojax.export.names import BUFFERS, to_torch
from dinojax.models.presets import PRESETS, get_preset
from dinojax.precision import POLICIES

SPECS = goldens.files("specs/")
PUBLISHED = {
    name.removeprefix("dinov3_"): published
    for path in SPECS
    for name, published in goldens.read_json(path).items()
    if goldens.is_covered(f"{path}:{name}")
}


def shapes(name: str, **changes):
    """Parameters of a preset as `jax.ShapeDtypeStruct`s; nothing is allocated."""
    model = get_preset(name).build(POLICIES["float32"], **changes)
    images = jnp.zeros((1, 1, model.stride, model.stride, 3))
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def names_and_shapes(params) -> dict[str, list[int]]:
    """Under the reference's names; one byte per weight keeps the 7B's block small."""
    leaves = jax.tree.map(lambda s: np.broadcast_to(np.int8(0), s.shape), params)
    return {key: list(value.shape) for key, value in to_torch(leaves).items()}


@pytest.mark.golden
@pytest.mark.parametrize("name", [name for name in PUBLISHED if "convnext" in name])
def test_published_convnext(name):
    published, params = PUBLISHED[name], shapes(name)
    assert get_preset(name).parameters == published["n_params"] == trees.count(params)
    assert published["n_blocks"] == len(get_preset(name).model["depths"])
    ours = names_and_shapes(params)
    duplicates = {f"norms.3.{kind}": ours[f"norm.{kind}"] for kind in ("weight", "bias")}
    assert ours | duplicates == published["state"]
    assert len(published["state"]) == published["n_state_entries"]


@pytest.mark.golden
@pytest.mark.parametrize("name", [name for name in PUBLISHED if "convnext" not in name])
def test_published(name):
    published, model = PUBLISHED[name], get_preset(name).model
    assert get_preset(name).parameters == published["n_params"]
    assert trees.count(shapes(name)) == published["n_params"]
    assert model["depth"] == published["n_blocks"]

    ours = names_and_shapes(shapes(name, depth=1))  # the file lists the first block only
    buffers = {key: shape for key, shape in published["state"].items() if BUFFERS.match(key)}
    assert ours == {k: v for k, v in published["state"].items() if k not in buffers}
    in_blocks = sum(key.startswith("blocks.0.") for key in published["state"])
    entries = len(published["state"]) + (model["depth"] - 1) * in_blocks
    assert entries == published["n_state_entries"]

    head_dim = model["embed_dim"] // model["num_heads"]
    assert buffers["rope_embed.periods"] == [head_dim // 4]
    masks_k = model["mask_k_bias"] and model.get("qkv_bias", True)
    assert ("blocks.0.attn.qkv.bias_mask" in buffers) == masks_k


def count_plain_mlp(width: int, depth: int, hidden: int) -> int:
    """A ViT/16 on RGB with MLP, all biases, LayerScale, 4 registers, one final norm."""
    tokens = (1 + 4 + 1) * width  # CLS, registers, mask
    patches = (3 * 16 * 16 + 1) * width
    attention = 3 * width * width + 3 * width + width * width + width
    mlp = width * hidden + hidden + hidden * width + width
    norms_and_scales = 2 * 2 * width + 2 * width
    return tokens + patches + depth * (attention + mlp + norms_and_scales) + 2 * width


# (width, depth, heads, hidden width): the published ViT-S as a check on the formula, then those
# that have no published state dict.
UNPUBLISHED = {
    "vits16": (384, 12, 6, 1536),
    "vitso400m16": (1152, 27, 18, 4352),
    "vithuge2": (1280, 32, 20, 5120),
    "vitgiant2": (1536, 40, 24, 6144),
}


@pytest.mark.parametrize("name", UNPUBLISHED)
def test_count_by_formula(name):
    width, depth, heads, hidden = UNPUBLISHED[name]
    preset, params = get_preset(name), shapes(name)
    assert preset.parameters == trees.count(params) == count_plain_mlp(width, depth, hidden)
    assert params["blocks"]["mlp"]["fc1"]["kernel"].shape == (depth, width, hidden)
    assert params["blocks"]["attn"]["qkv"]["kernel"].shape[2:] == (3, heads, 64)


# (width, depth, hidden width, gated, entries of the released state dict without and with registers)
DINOV2 = {
    "vits14": (384, 12, 1536, False, 175),
    "vitb14": (768, 12, 3072, False, 175),
    "vitl14": (1024, 24, 4096, False, 343),
    "vitg14": (1536, 40, 4096, True, 567),
}


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("name", DINOV2)
def test_dinov2(name, registers):
    """Counts by formula, names and shapes of the released files (37 x 37 positions, packed w12)."""
    width, depth, hidden, gated, entries = DINOV2[name]
    name += "_reg" if registers else ""
    params = shapes(name)
    tokens = (1 + registers + 1 + 1 + 37**2) * width  # CLS, registers, mask, positions
    patches = (3 * 14 * 14 + 1) * width
    attention = 4 * (width * width + width)
    ffn = (3 if gated else 2) * width * hidden + (2 if gated else 1) * hidden + width
    count = tokens + patches + depth * (attention + ffn + 6 * width) + 2 * width
    assert get_preset(name).parameters == trees.count(params) == count

    one_block = names_and_shapes(shapes(name, depth=1))
    in_blocks = sum(key.startswith("blocks.0.") for key in one_block)
    assert len(one_block) + (depth - 1) * in_blocks == entries + bool(registers)
    expected = {
        "pos_embed": [1, 1370, width],
        "cls_token": [1, 1, width],
        "mask_token": [1, width],
        "patch_embed.proj.weight": [width, 3, 14, 14],
        "blocks.0.ls2.gamma": [width],
        "blocks.0.mlp.w12.weight" if gated else "blocks.0.mlp.fc1.weight": [
            2 * hidden if gated else hidden,
            width,
        ],
    }
    if registers:
        expected["register_tokens"] = [1, registers, width]
    assert {key: one_block.get(key) for key in expected} == expected
    assert "storage_tokens" not in one_block


def test_every_preset_is_counted():
    dinov2 = {name + end for name in DINOV2 for end in ("", "_reg")}
    assert set(PRESETS) == set(PUBLISHED) | set(UNPUBLISHED) | dinov2


def test_presets_are_data():
    for preset in PRESETS.values():
        assert set(preset.model) <= {field.name for field in dataclasses.fields(preset.backbone)}


def test_changes_must_be_fields():
    preset = get_preset("convnext_tiny")
    with pytest.raises(ValueError, match=r"num_heads=3 is not a field of ConvNeXt; leave it"):
        preset.build(POLICIES["float32"], num_heads=3)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"arch='vit_s' is not a preset; use one of .*'vits16'"):
        get_preset("vit_s")
