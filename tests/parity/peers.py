"""Random models of `transformers` and `timm`, and their weights under the reference's names.

The peers' modules are imported inside functions: without the parity extra this file still imports.
"""

import functools
import re
import warnings
from collections.abc import Mapping
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.torchvision_operators import declare_torchvision_operators

from dinojax.export.names import from_torch
from dinojax.models.features import Features
from dinojax.models.presets import get_preset
from dinojax.precision import POLICIES

State = dict[str, np.ndarray]
DEPTH = {"vit7b16": 1}
"""Of a model of full width; of the others 2. One layer of the 7B has 168 million weights."""
CONVNEXT_DEPTHS = (1, 1, 2, 1)
TABLE = 4
"""Side of the position tables in patches; none of `GRIDS` has it, so all tables are resampled."""
GRIDS = ((3, 3), (2, 5))
"""Patches of the images, one of them not square. ConvNeXts see as many of 32 px."""
ATOL = 1e-5

_LAYER = r"(?:model\.|encoder\.)?layer\.(\d+)"
TRANSFORMERS_NAMES = (
    (r"embeddings\.(cls_token|mask_token)", r"\1"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.register_tokens", "storage_tokens"),
    (r"embeddings\.patch_embeddings\.(?:projection\.)?(.*)", r"patch_embed.proj.\1"),
    (_LAYER + r"\.(norm\d\..*)", r"blocks.\1.\2"),
    (_LAYER + r"\.layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (_LAYER + r"\.attention\.([qkv])_proj\.(.*)", r"blocks.\1.attn.\2.\3"),
    (_LAYER + r"\.attention\.o_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
    (_LAYER + r"\.mlp\.gate_proj\.(.*)", r"blocks.\1.mlp.w1.\2"),
    (_LAYER + r"\.mlp\.(up|down)_proj\.(.*)", r"blocks.\1.mlp.\2.\3"),
    (_LAYER + r"\.mlp\.fc1\.(.*)", r"blocks.\1.mlp.up.\2"),
    (_LAYER + r"\.mlp\.fc2\.(.*)", r"blocks.\1.mlp.down.\2"),
    (r"(?:layer)?norm\.(.*)", r"norm.\1"),
)
TRANSFORMERS_CONVNEXT_NAMES = (
    (r"model\.stages\.(\d)\.downsample_layers\.(.*)", r"downsample_layers.\1.\2"),
    (r"model\.stages\.(\d)\.layers\.(\d)\.gamma", r"stages.\1.\2.gamma"),
    (r"model\.stages\.(\d)\.layers\.(\d)\.depthwise_conv\.(.*)", r"stages.\1.\2.dwconv.\3"),
    (r"model\.stages\.(\d)\.layers\.(\d)\.layer_norm\.(.*)", r"stages.\1.\2.norm.\3"),
    (r"model\.stages\.(\d)\.layers\.(\d)\.pointwise_conv(.*)", r"stages.\1.\2.pwconv\3"),
    (r"layer_norm\.(.*)", r"norm.\1"),
)
TIMM_CONVNEXT_NAMES = (
    (r"stem\.(.*)", r"downsample_layers.0.\1"),
    (r"stages\.(\d)\.downsample\.(.*)", r"downsample_layers.\1.\2"),
    (r"stages\.(\d)\.blocks\.(\d)\.gamma", r"stages.\1.\2.gamma"),
    (r"stages\.(\d)\.blocks\.(\d)\.conv_dw\.(.*)", r"stages.\1.\2.dwconv.\3"),
    (r"stages\.(\d)\.blocks\.(\d)\.norm\.(.*)", r"stages.\1.\2.norm.\3"),
    (r"stages\.(\d)\.blocks\.(\d)\.mlp\.fc(.*)", r"stages.\1.\2.pwconv\3"),
    (r"head\.norm\.(.*)", r"norm.\1"),
)
TIMM_NAMES = (
    (r"cls_token|pos_embed|norm\..*|patch_embed\..*", r"\g<0>"),
    (r"reg_token", "storage_tokens"),
    (r"blocks\.\d+\.(?:norm\d|ls\d|attn\.qkv|attn\.proj)\..*", r"\g<0>"),
    (r"blocks\.(\d+)\.gamma_(\d)", r"blocks.\1.ls\2.gamma"),
    (r"blocks\.(\d+)\.attn\.([qv])_bias", r"blocks.\1.attn.\2.bias"),
    (r"blocks\.(\d+)\.mlp\.fc1_g\.(.*)", r"blocks.\1.mlp.w1.\2"),
    (r"blocks\.(\d+)\.mlp\.fc1_x\.(.*)", r"blocks.\1.mlp.up.\2"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(.*)", r"blocks.\1.mlp.up.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(.*)", r"blocks.\1.mlp.down.\2"),
)


def wide_ones_are_slow(presets: Mapping[str, str]) -> pytest.MarkDecorator:
    """Parameters ``name`` of a test, by the preset of each: a CI run checks up to base size."""
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=pytest.mark.slow if _width(preset) > 768 else ())
            for name, preset in presets.items()
        ],
    )


def _width(preset: str) -> int:
    model = get_preset(preset).model
    return model["dims"][-1] if "dims" in model else model["embed_dim"]


@functools.cache
def import_transformers() -> ModuleType:
    """transformers; like timm it imports torchvision."""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the package, not in our use of it
        declare_torchvision_operators()
        import transformers

        for name in ("DINOv3ViT", "DINOv3ConvNext", "Dinov2", "Dinov2WithRegisters"):
            for kind in ("Model", "Config"):
                getattr(transformers, f"{name}{kind}")  # imported on first access
    return transformers


@functools.cache
def import_timm() -> ModuleType:
    """timm; the operators of torchvision, which it imports, may be built for another torch."""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        declare_torchvision_operators()
        import timm
    return timm


def randomise(module) -> None:
    """Replace every parameter, so that no term is zero, one or negligible."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, value in module.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if re.search(r"gamma|lambda", name):
            value.data = 0.5 + 0.25 * noise
        elif "norm" in name and name.endswith("weight"):
            value.data = 1 + 0.2 * noise
        elif value.ndim == 1:
            value.data = 0.15 * noise
        elif "token" in name or "pos" in name:
            value.data = 0.5 * noise
        else:
            value.data = noise / value[0].numel() ** 0.5


def renamed(module, table) -> State:
    """The module's parameters under the names that `table` gives them."""
    state = {}
    for name, value in module.named_parameters():
        matches = [m.expand(new) for old, new in table if (m := re.fullmatch(old, name))]
        assert len(matches) == 1, f"{name} matches {len(matches)} rules"
        state[matches[0]] = value.detach().numpy()
    return state


def to_reference(module, table) -> State:
    """A ViT's parameters under the reference's names; q, k and v are fused."""
    state = renamed(module, table)
    width = state["norm.weight"].shape[0]
    mask_token = state.get("mask_token", np.zeros(width, np.float32))  # timm has none
    state["mask_token"] = mask_token.reshape(1, width)  # DINOv3's of transformers has an axis more
    if state.get("pos_embed", np.zeros((1, 0))).shape[1] == TABLE**2:  # nor a position of CLS
        row = np.zeros((1, 1, width), np.float32)
        state["pos_embed"] = np.concatenate([row, state["pos_embed"]], axis=1)
    hidden = state["blocks.0.mlp.down.weight"].shape[1]
    ffn = {"up": "fc1", "down": "fc2"}
    if "blocks.0.mlp.w1.weight" in state:
        ffn = {"up": "w2", "down": "w3"}
    elif state["blocks.0.mlp.up.weight"].shape[0] == 2 * hidden:
        ffn = {"up": "w12", "down": "w3"}
    fused: State = {}
    for name, value in state.items():
        if match := re.fullmatch(r"(.*\.mlp\.)(up|down)(\..*)", name):
            fused[match[1] + ffn[match[2]] + match[3]] = value
        elif match := re.fullmatch(r"(.*\.attn\.)[qkv](\..*)", name):
            # A bias that does not exist, like that of the keys, is zero.
            parts = [state.get(f"{match[1]}{part}{match[2]}") for part in "qkv"]
            fused[f"{match[1]}qkv{match[2]}"] = np.concatenate(
                [np.zeros_like(value) if part is None else part for part in parts]
            )
        else:
            fused[name] = value
    return fused


def random_images(preset: str) -> list[np.ndarray]:
    """One NCHW batch for each of `GRIDS`."""
    rng = np.random.default_rng(1)
    side = get_preset(preset).build(POLICIES["float32"]).stride
    return [rng.normal(size=(2, 3, side * h, side * w)).astype(np.float32) for h, w in GRIDS]


def our_features(
    preset: str,
    state: Mapping[str, np.ndarray],
    images: np.ndarray,
    masks: np.ndarray | None = None,
    **changes,
) -> Features:
    """Features of a preset with weights and NCHW images of the reference's layout."""
    model = get_preset(preset).build(POLICIES["float32"], **changes)
    x = jnp.asarray(images.transpose(0, 2, 3, 1))[None]
    like = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(jnp.asarray, from_torch(state, like))
    given = None if masks is None else jnp.asarray(masks)[None]
    (features,) = jax.jit(lambda p, x: model.apply({"params": p}, x, masks=given))(params, x)
    return features


def assert_same(features: Features, tokens: np.ndarray) -> None:
    """`tokens` are the peer's normalised ``[CLS, registers, patches]``."""
    assert np.abs(tokens).mean() > 0.1, "a trivial model proves nothing"
    registers = features.registers.shape[2]
    for ours, theirs in (
        (features.cls[0], tokens[:, 0]),
        (features.registers[0], tokens[:, 1 : 1 + registers]),
        (features.patches[0], tokens[:, 1 + registers :]),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)
