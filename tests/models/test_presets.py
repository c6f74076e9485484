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
from dinojax.models.vit import VisionTransformer
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
    model = VisionTransformer(
        precision=POLICIES["float32"], **{**get_preset(name).model, **changes}
    )
    images = jnp.zeros((1, 1, model.patch_size, model.patch_size, 3))
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


@pytest.mark.golden
@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name):
    published, model = PUBLISHED[name], get_preset(name).model
    assert get_preset(name).parameters == published["n_params"]
    assert trees.count(shapes(name)) == published["n_params"]
    assert model["depth"] == published["n_blocks"]

    # The file lists the first block only. One byte per weight keeps the 7B's block small.
    one_block = jax.tree.map(lambda s: np.broadcast_to(np.int8(0), s.shape), shapes(name, depth=1))
    ours = {key: list(value.shape) for key, value in to_torch(one_block).items()}
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


def test_every_preset_is_counted():
    assert set(PRESETS) == set(PUBLISHED) | set(UNPUBLISHED)


def test_presets_are_data():
    fields = {field.name for field in dataclasses.fields(VisionTransformer)}
    assert all(set(preset.model) <= fields for preset in PRESETS.values())


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"arch='vit_s' is not a preset; use one of .*'vits16'"):
        get_preset("vit_s")
