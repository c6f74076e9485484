"""Weights under Hugging Face's names are the official ones, for every family and both versions."""

import re

import numpy as np
import pytest

from dinojax.export.hf_names import HfWeights, is_hf
from dinojax.export.names import entry_shapes
from dinojax.models.presets import PRESETS, backbone_shapes
from dinojax.precision import get_precision

FFN = {"w1": "gate_proj", "w2": "up_proj", "w3": "down_proj", "fc1": "up_proj", "fc2": "down_proj"}
SIZES = {"embed_dim": 64, "depth": 2, "num_heads": 2}


class Arrays(dict):
    """A state dict that knows its shapes."""

    @property
    def shapes(self):
        return {name: value.shape for name, value in self.items()}


def official(preset: str, **changes) -> Arrays:
    sizes = {} if preset.startswith("convnext") else SIZES
    backbone = PRESETS[preset].build(get_precision("float32"), **{**sizes, **changes})
    rng = np.random.default_rng(0)
    shapes = entry_shapes(backbone_shapes(backbone, 3))
    return Arrays({name: rng.normal(size=shape) for name, shape in shapes.items()})


def version_5(state: Arrays) -> Arrays:
    """As `transformers` 5 calls a DINOv3 ViT's; keys have no bias there."""
    found = Arrays()
    for name, value in state.items():
        layer = re.fullmatch(r"blocks\.(\d+)\.(.*)", name)
        if layer is None:
            known = {"cls_token": "embeddings.cls_token", "norm.weight": "norm.weight"}
            known |= {"norm.bias": "norm.bias", "mask_token": "embeddings.mask_token"}
            known["storage_tokens"] = "embeddings.register_tokens"
            for kind in ("weight", "bias"):
                known[f"patch_embed.proj.{kind}"] = f"embeddings.patch_embeddings.{kind}"
            found[known[name]] = value[None] if name == "mask_token" else value
            continue
        stem, rest = f"model.layer.{layer[1]}.", layer[2]
        if rest.startswith("attn.qkv"):
            for part, rows in zip("qkv", np.split(value, 3), strict=True):
                if (part, rest) != ("k", "attn.qkv.bias"):
                    found[f"{stem}attention.{part}_proj.{rest.split('.')[-1]}"] = rows
            continue
        rest = re.sub(r"attn\.proj", "attention.o_proj", rest)
        rest = re.sub(r"ls(\d)\.gamma", r"layer_scale\1.lambda1", rest)
        rest = re.sub(r"mlp\.(\w+)", lambda match: f"mlp.{FFN[match[1]]}", rest)
        found[stem + rest] = value
    return found


def version_4(state: Arrays) -> Arrays:
    """As the hub's files of DINOv2 call them."""
    found = Arrays()
    for name, value in state.items():
        new = re.sub(r"^blocks", "encoder.layer", name)
        new = re.sub(r"^(cls_token|mask_token)", r"embeddings.\1", new)
        new = new.replace("pos_embed", "embeddings.position_embeddings")
        new = new.replace("storage_tokens", "embeddings.register_tokens")
        new = new.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        new = re.sub(r"^norm", "layernorm", new).replace("attn.proj", "attention.output.dense")
        new = re.sub(r"ls(\d)\.gamma", r"layer_scale\1.lambda1", new)
        new = new.replace("w12", "weights_in").replace("mlp.w3", "mlp.weights_out")
        if "attn.qkv" not in new:
            found[new] = value
            continue
        for part, rows in zip(("query", "key", "value"), np.split(value, 3), strict=True):
            found[new.replace("attn.qkv", f"attention.attention.{part}")] = rows
    return found


def check(found: HfWeights, expected: Arrays) -> None:
    assert found.keys() == expected.keys() == found.shapes.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert found.shapes[name] == value.shape


@pytest.mark.parametrize("preset", ["vits16", "vits16plus"])
def test_dinov3(preset):
    state = official(preset)
    for name, value in state.items():
        if name.endswith("qkv.bias"):
            value[64:128] = 0  # the masked part
    renamed = version_5(state)
    assert is_hf(renamed) and not is_hf(state)
    check(HfWeights(renamed), state)


@pytest.mark.parametrize("preset", ["vits14", "vits14_reg", "vitg14"])
def test_dinov2(preset):
    """The gated FFN has its two matrices in one there as in the official files."""
    state = official(preset)
    packed = Arrays()
    for name, value in state.items():
        if re.search(r"mlp\.w1\.", name):
            both = np.concatenate([value, state[name.replace("w1", "w2")]])
            packed[name.replace("w1", "w12")] = both
        elif not re.search(r"mlp\.w2\.", name):
            packed[name] = value
    check(HfWeights(version_4(packed)), packed)


def test_convnext():
    state = official("convnext_tiny", depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
    renamed = Arrays()
    for name, value in state.items():
        new = re.sub(r"^downsample_layers\.(\d)\.", r"model.stages.\1.downsample_layers.", name)
        new = re.sub(r"^stages\.(\d)\.(\d)\.", r"model.stages.\1.layers.\2.", new)
        new = new.replace("dwconv", "depthwise_conv").replace("pwconv", "pointwise_conv")
        new = re.sub(r"(layers\.\d)\.norm\.", r"\1.layer_norm.", new)
        new = re.sub(r"(downsample_layers\.\d)\.layer_norm", r"\1", new)
        renamed["layer_" + new if new.startswith("norm.") else new] = value
    check(HfWeights(renamed), state)


def test_what_is_unknown_keeps_its_name():
    """So that reading it says which entry is left over."""
    state = version_5(official("vits16"))
    state["classifier.weight"] = np.zeros((3, 64))
    assert "classifier.weight" in HfWeights(state)
    state["layer.0.norm1.weight"] = np.zeros(64)
    with pytest.raises(ValueError, match=r"'model\.layer\.0\.norm1\.weight' and 'layer\.0.* both"):
        HfWeights(state)
