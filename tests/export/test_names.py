"""The name map: a bijection for every structure, and errors that name the entry."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import trees
from dinojax.export.names import from_torch, to_torch
from dinojax.models.convnext import ConvNeXt
from dinojax.models.head import DinoHead
from dinojax.models.vit import VisionTransformer
from dinojax.precision import POLICIES

HEAD_DEPTHS = range(1, 5)


def random_like(like):
    """Every element different, so that a swapped axis or layer shows."""
    leaves, structure = jax.tree.flatten(like)
    starts = np.cumsum([0, *(leaf.size for leaf in leaves)])
    values = [
        np.arange(start, start + leaf.size, dtype=np.float32).reshape(leaf.shape)
        for start, leaf in zip(starts, leaves, strict=False)
    ]
    return jax.tree.unflatten(structure, values)


def head_like(layers: int = 3, bias: bool = True, weight_norm: bool = False):
    head = DinoHead(
        7,
        POLICIES["float32"],
        hidden_dim=5,
        bottleneck_dim=3,
        layers=layers,
        mlp_bias=bias,
        weight_norm=weight_norm,
    )
    return jax.eval_shape(head.init, jax.random.key(0), jnp.zeros((1, 4)))["params"]


def vit_like(**options):
    options = {"embed_dim": 8, "depth": 3, "num_heads": 2, "patch_size": 2, **options}
    model = VisionTransformer(precision=POLICIES["float32"], **options)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 2, 4, 3)))["params"]


def convnext_like(**options):
    model = ConvNeXt((1, 2, 3, 1), (2, 3, 4, 5), POLICIES["float32"], **options)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 32, 32, 3)))["params"]


STRUCTURES = {
    "convnext": convnext_like,
    "convnext without layerscale": lambda: convnext_like(layerscale=None),
    "dinov2": lambda: vit_like(pos_embed_grid=3),
    "dinov2, registers, swiglu": lambda: vit_like(
        pos_embed_grid=3, n_storage_tokens=4, ffn_layer="swiglu"
    ),
    "dinov2 head": lambda: head_like(weight_norm=True),
    **{f"head{n}": lambda n=n: head_like(n) for n in HEAD_DEPTHS},
    "head without bias": lambda: head_like(bias=False),
    "mlp": vit_like,
    "swiglu, untied": lambda: vit_like(
        ffn_layer="swiglu",
        n_storage_tokens=4,
        untie_cls_and_patch_norms=True,
        untie_global_and_local_cls_norm=True,
    ),
    "no bias, no layerscale, rmsnorm": lambda: vit_like(
        qkv_bias=False, layerscale=None, norm_layer="rmsnorm"
    ),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_bijection(structure):
    like = STRUCTURES[structure]()
    params = random_like(like)
    state = to_torch(params)
    back = from_torch(state, like)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    again = to_torch(back)
    assert list(again) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(again[name], value)
    assert sum(value.size for value in state.values()) == trees.count(like)


@pytest.mark.parametrize("layers", HEAD_DEPTHS)
def test_head_names_skip_the_activations(layers):
    weights = {"mlp.weight"} if layers == 1 else {f"mlp.{2 * i}.weight" for i in range(layers)}
    names = {name for name in to_torch(random_like(head_like(layers))) if "weight" in name}
    assert names == weights | {"last_layer.weight"}


def test_layouts():
    """Linear maps are ``[out, in]``, convolutions ``[D, C, p, p]``, blocks are numbered."""
    like = vit_like()
    params = random_like(like)
    state = to_torch(params)
    for layer in range(3):
        kernel = params["blocks"]["attn"]["qkv"]["kernel"][layer]  # [8, 3, 2, 4]
        weight = state[f"blocks.{layer}.attn.qkv.weight"]
        assert weight.shape == (24, 8)
        assert weight[1 * 8 + 1 * 4 + 2, 5] == kernel[5, 1, 1, 2]
    assert state["patch_embed.proj.weight"].shape == (8, 3, 2, 2)
    assert (
        state["patch_embed.proj.weight"][6, 2, 0, 1]
        == params["embed"]["patch_embed"]["kernel"][0, 1, 2, 6]
    )
    shapes = {name: state[name].shape for name in ("cls_token", "mask_token")}
    assert shapes == {"cls_token": (1, 1, 8), "mask_token": (1, 8)}


def test_layouts_of_convnext():
    params = random_like(convnext_like())
    state = to_torch(params)
    assert state["stages.2.1.dwconv.weight"].shape == (4, 1, 7, 7)
    assert (
        state["stages.2.1.dwconv.weight"][3, 0, 5, 6]
        == params["stage_2"]["dwconv"]["kernel"][1, 5, 6, 0, 3]
    )
    assert state["stages.2.1.gamma"][2] == params["stage_2"]["ls"]["gamma"][1, 2]
    for stage, (conv, norm) in enumerate([(0, 1), (1, 0), (1, 0), (1, 0)]):
        ours = params[f"downsample_{stage}"]
        np.testing.assert_array_equal(
            state[f"downsample_layers.{stage}.{norm}.weight"], ours["norm"]["scale"]
        )
        weight = state[f"downsample_layers.{stage}.{conv}.weight"]
        assert weight[1, 0, 1, 0] == ours["conv"]["kernel"][1, 0, 0, 1]


def test_names_of_dinov2():
    """Packed gate and value, registers, gains; chunks and either weight norm are read."""
    like = vit_like(pos_embed_grid=3, n_storage_tokens=4, ffn_layer="swiglu")
    params = random_like(like)
    state = to_torch(params)
    hidden = params["blocks"]["mlp"]["w1"]["kernel"].shape[-1]
    assert state["pos_embed"].shape == (1, 10, 8) and state["register_tokens"].shape == (1, 4, 8)
    packed = state["blocks.2.mlp.w12.weight"]
    assert packed.shape == (2 * hidden, 8)
    for part, name in ((packed[:hidden], "w1"), (packed[hidden:], "w2")):
        np.testing.assert_array_equal(part, params["blocks"]["mlp"][name]["kernel"][2].T)
    assert not [name for name in state if ".w1." in name or ".w2." in name or "storage" in name]
    chunked = {re.sub(r"^blocks\.(\d)", r"blocks.7.\1", k): v for k, v in state.items()}
    jax.tree.map(np.testing.assert_array_equal, from_torch(chunked, like), params)

    like = head_like(weight_norm=True)
    params = random_like(like)
    state = to_torch(params)
    assert state["last_layer.weight_g"].shape == (7, 1)
    assert state["last_layer.weight_v"].shape == (7, 3) and "last_layer.weight" not in state
    newer = {"weight_g": "parametrizations.weight.original0"}
    newer["weight_v"] = "parametrizations.weight.original1"
    for old, new in newer.items():
        state[f"last_layer.{new}"] = state.pop(f"last_layer.{old}")
    jax.tree.map(np.testing.assert_array_equal, from_torch(state, like), params)


def test_buffers_of_the_reference_are_ignored():
    like = vit_like()
    state = to_torch(random_like(like))
    buffers = {"rope_embed.periods": np.ones(1), "blocks.0.attn.qkv.bias_mask": np.ones(24)}
    jax.tree.map(
        np.testing.assert_array_equal, from_torch({**state, **buffers}, like), random_like(like)
    )


def test_errors_name_the_entry():
    like = vit_like()
    state = to_torch(random_like(like))
    name = "blocks.1.mlp.fc1.weight"
    without = {k: v for k, v in state.items() if k != name}
    with pytest.raises(ValueError, match=r"state dict has no entry 'blocks.1.mlp.fc1.weight'"):
        from_torch(without, like)
    with pytest.raises(ValueError, match=r"1 entries the model lacks: 'blocks.3.norm1.bias'"):
        from_torch({**state, "blocks.3.norm1.bias": np.ones(8)}, like)
    with pytest.raises(ValueError, match=rf"{name}' has shape \(31, 8\), not .*\(32, 8\)"):
        from_torch({**state, name: state[name][1:]}, like)
    with pytest.raises(ValueError, match=rf"{name}' has shape \(8, 32\), not .*\(32, 8\)"):
        from_torch({**state, name: state[name].T}, like)
    with pytest.raises(ValueError, match=rf"no entry '{name}'; .* lacks: 'renamed'"):
        from_torch({**without, "renamed": state[name]}, like)
    with pytest.raises(ValueError, match=r"blocks.0.1.norm1.bias' .* both 'blocks.1.norm1.bias'"):
        from_torch({**state, "blocks.0.1.norm1.bias": np.ones(8)}, like)
    with pytest.raises(ValueError, match="'odd' has no counterpart"):
        to_torch({"odd": np.ones(1)})
