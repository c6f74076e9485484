"""Out to another library's names and in again: every bit, for every kind of backbone."""

import numpy as np
import pytest

from dinojax.export.hf_names import HfWeights, is_hf, to_hf
from dinojax.export.loose import Outgoing, read_kept
from dinojax.export.names import entry_shapes, from_torch, to_torch
from dinojax.export.timm_names import TimmWeights, is_timm, to_timm
from dinojax.models.presets import PRESETS, Backbone, backbone_shapes
from dinojax.precision import get_precision

SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4}
BACKBONES = {
    "vits16": SMALL,
    "vits16plus": SMALL,
    "vit7b16": SMALL,
    "vits14": SMALL | {"pos_embed_grid": 3},
    "vits14_reg": SMALL | {"pos_embed_grid": 3},
    "vitg14_reg": SMALL | {"pos_embed_grid": 3},
    "convnext_tiny": {"depths": (1, 2, 1, 1), "dims": (4, 8, 12, 16)},
}
LIBRARIES = {"hf": (to_hf, HfWeights, is_hf), "timm": (to_timm, TimmWeights, is_timm)}


class Arrays(dict):
    """A file: a state dict that knows its shapes, and a header."""

    def __init__(self, tensors, metadata):
        super().__init__(tensors)
        self.metadata = metadata

    @property
    def shapes(self):
        return {name: value.shape for name, value in self.items()}


def random_state(name: str) -> tuple[Backbone, dict, dict]:
    backbone = PRESETS[name].build(get_precision("float32"), **BACKBONES[name])
    like = backbone_shapes(backbone, 3)
    rng = np.random.default_rng(0)
    state = {k: rng.normal(size=s).astype(np.float32) for k, s in entry_shapes(like).items()}
    return backbone, to_torch(from_torch(state, like)), like


def file_of(out: Outgoing) -> Arrays:
    return Arrays(out.tensors, out.header())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", BACKBONES)
def test_there_and_back(name, library):
    """Also of the biases of keys that are masked, which neither library has."""
    backbone, state, like = random_state(name)
    write, read, is_theirs = LIBRARIES[library]
    out = write(backbone, state)
    file = file_of(out)
    assert is_theirs(file.shapes) and not is_theirs(dict.fromkeys(state))
    assert not any("qkv" in key for key in file) or library == "timm"
    assert all(value.flags.c_contiguous for value in file.values())
    again = to_torch(from_torch(read(file), like))
    assert list(again) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


def test_what_is_kept():
    """Nothing of a model with unmasked keys but what the library lacks."""
    kept = {
        (name, library): set(LIBRARIES[library][0](*random_state(name)[:2]).kept)
        for name in BACKBONES
        for library in LIBRARIES
    }
    masked = {f"blocks.{layer}.attn.k.bias" for layer in range(2)}
    local = {"local_cls_norm.weight", "local_cls_norm.bias"}
    assert kept["vits16", "hf"] == masked and kept["vits16", "timm"] == masked | {"mask_token"}
    assert kept["vit7b16", "hf"] == local and kept["vit7b16", "timm"] == local | {"mask_token"}
    assert kept["vits14", "hf"] == kept["vitg14_reg", "hf"] == set()
    assert kept["vits14", "timm"] == {"mask_token"}
    assert kept["vits14_reg", "timm"] == {"mask_token", "cls_token", "pos_embed.cls"}
    assert kept["convnext_tiny", "hf"] == kept["convnext_tiny", "timm"] == set()


def test_biases_of_keys_that_are_zero_need_no_keeping():
    backbone, state, like = random_state("vits16")
    for layer in range(2):
        state[f"blocks.{layer}.attn.qkv.bias"][16:32] = 0
    out = to_hf(backbone, state)
    assert not out.kept and out.header() == {}
    again = to_torch(from_torch(HfWeights(file_of(out)), like))
    for key, value in state.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


def test_registers_without_what_is_kept():
    """As timm's own files: the position is in the token, so the sum is what it was."""
    backbone, state, _ = random_state("vits14_reg")
    out = to_timm(backbone, state)
    found = TimmWeights(Arrays(out.tensors, {}))
    assert "mask_token" not in found and not found["pos_embed"][:, 0].any()
    np.testing.assert_array_equal(found["pos_embed"][:, 1:], state["pos_embed"][:, 1:])
    expected = state["cls_token"][0, 0] + state["pos_embed"][0, 0]
    np.testing.assert_array_equal(found["cls_token"][0, 0], expected)


def test_a_header_of_other_weights_is_refused():
    backbone, state, _ = random_state("vits14_reg")
    file = file_of(to_timm(backbone, state))
    file["cls_token"] = file["cls_token"] + 1
    with pytest.raises(
        ValueError, match=r"header's CLS token .* are not of the tensor 'cls_token'"
    ):
        TimmWeights(file)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"a": 1}',
        '{"a": ["float32", [2], "AAAA"]}',
        '{"a": ["int8", [1], "AA=="]}',
        '{"a": ["float32", [-1, -1], "AAAAAA=="]}',
        '{"a": ["float32", ["x"], "AAAAAA=="]}',
    ],
)
def test_damaged_headers(text):
    with pytest.raises(ValueError, match="header's entry 'kept' is damaged"):
        read_kept({"kept": text})


def test_parts_of_different_shapes():
    backbone, state, _ = random_state("vits16")
    file = file_of(to_hf(backbone, state))
    name = "layer.1.attention.q_proj.weight"
    file[name] = file[name][1:]
    with pytest.raises(ValueError, match=rf"blocks\.1\.attn\.qkv\.weight.*'{name}': \[15, 16\]"):
        HfWeights(file)
