"""Settings that `transformers` reads: those of the hub's folders for the presets."""

import pytest

from dinojax.backbones.opened import ImageFormat
from dinojax.export.hf_card import model_card
from dinojax.export.hf_config import hf_config, hf_differences, hf_preprocessor
from dinojax.models.presets import PRESETS
from dinojax.precision import POLICIES

IMAGES = ImageFormat()
DINOV3 = {"model_type": "dinov3_vit", "patch_size": 16, "num_register_tokens": 4}
DINOV3 |= {"rope_theta": 100.0, "layer_norm_eps": 1e-5, "key_bias": False, "mlp_bias": True}
DINOV2 = {"patch_size": 14, "image_size": 518, "mlp_ratio": 4, "layer_norm_eps": 1e-6}


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("vits16", DINOV3 | {"hidden_size": 384, "intermediate_size": 1536, "hidden_act": "gelu"}),
        ("vith16plus", DINOV3 | {"intermediate_size": 5120, "use_gated_mlp": True}),
        (
            "vit7b16",
            DINOV3 | {"intermediate_size": 8192, "query_bias": False, "hidden_act": "silu"},
        ),
        ("vitl14", DINOV2 | {"model_type": "dinov2", "use_swiglu_ffn": False}),
        (
            "vitg14_reg",
            DINOV2 | {"model_type": "dinov2_with_registers", "use_swiglu_ffn": True},
        ),
        (
            "convnext_base",
            {"model_type": "dinov3_convnext", "hidden_sizes": [128, 256, 512, 1024]},
        ),
    ],
)
def test_presets(preset, expected):
    config = hf_config(PRESETS[preset].build(POLICIES["float32"]), IMAGES)
    assert {key: config[key] for key in expected} == expected
    assert config["num_channels"] == 3


def test_preprocessors():
    """The whole image for DINOv3; for DINOv2 the middle of one 8/7 as large, as 224 of 256."""
    images = ImageFormat((0.1, 0.2), (0.3, 0.4), image_px=224)
    found = hf_preprocessor(PRESETS["vits16"].build(POLICIES["float32"]), images)
    assert found["size"] == {"height": 224, "width": 224} and found["image_mean"] == [0.1, 0.2]
    found = hf_preprocessor(PRESETS["vits14"].build(POLICIES["float32"]), images)
    assert found["size"] == {"shortest_edge": 256} and found["do_convert_rgb"] is False
    assert found["crop_size"] == {"height": 224, "width": 224}


@pytest.mark.parametrize(
    ("preset", "policy", "words"),
    [
        ("vits16", "float32", None),
        ("vits16", "reference", "periods rounded to bfloat16"),
        ("vits14", "float32", "interpolate_offset=0.1"),
        ("vits14_reg", "float32", None),
        ("convnext_tiny", "float32", None),
    ],
)
def test_what_is_computed_otherwise_is_said(preset, policy, words):
    backbone = PRESETS[preset].build(POLICIES[policy])
    said = hf_differences(backbone)
    assert (len(said) == 1 and words in said[0]) if words else not said
    assert all(text in model_card(backbone, IMAGES, {}) for text in said)
