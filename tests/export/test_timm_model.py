"""Names and arguments of timm for backbones of all sizes; that they fit is for tests/parity."""

import json

import pytest

from dinojax.backbones.opened import ImageFormat
from dinojax.export.timm_model import timm_model
from dinojax.models.presets import PRESETS
from dinojax.precision import POLICIES

EVA = {"num_classes": 0, "global_pool": "token"}
VIT = {"num_classes": 0, "dynamic_img_size": True}


@pytest.mark.parametrize(
    ("preset", "changes", "name", "arguments"),
    [
        ("vits16", {}, "vit_small_patch16_dinov3_qkvb", EVA),
        ("vits16", {"qkv_bias": False}, "vit_small_patch16_dinov3", EVA),
        ("vith16plus", {}, "vit_huge_plus_patch16_dinov3_qkvb", EVA),
        ("vit7b16", {}, "vit_7b_patch16_dinov3", EVA),
        ("vitg14_reg", {}, "vit_giant_patch14_reg4_dinov2", VIT),
        ("vits14", {"pos_embed_grid": 16}, "vit_small_patch14_dinov2", VIT | {"img_size": 224}),
        (
            "vits16",
            {"embed_dim": 64, "num_heads": 2, "patch_size": 8, "n_storage_tokens": 1},
            "vit_small_patch16_dinov3_qkvb",
            EVA | {"embed_dim": 64, "num_heads": 2, "patch_size": 8, "num_reg_tokens": 1},
        ),
        ("convnext_large", {}, "convnext_large", {"num_classes": 0}),
    ],
)
def test_names(preset, changes, name, arguments):
    found = timm_model(PRESETS[preset].build(POLICIES["float32"], **changes), ImageFormat())
    assert found == (name, arguments)
    json.dumps(found[1])


def test_widths_of_feed_forward_layers_are_exact():
    """``int(width * ratio)`` there gives the width that it has here."""
    backbone = PRESETS["vitso400m16"].build(POLICIES["float32"])
    _, arguments = timm_model(backbone, ImageFormat())
    assert int(1152 * arguments["mlp_ratio"]) == int(1152 * 3.777777778) == 4352
