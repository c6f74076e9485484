"""Names of released models, as hubs and file names have them."""

import pytest

from dinojax.backbones.names import RELEASES, SATELLITE, UNRELEASED, find_release
from dinojax.models.presets import PRESETS


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("dinov3_vits16", "vits16"),
        ("dinov3_vits16_pretrain_lvd1689m-08c60483.pth", "vits16"),
        ("/weights/dinov3_vith16plus_pretrain_lvd1689m-7c1da9a5.safetensors", "vith16plus"),
        ("dinov3_convnext_tiny_pretrain_lvd1689m-21b726bb", "convnext_tiny"),
        ("dinov2_vitb14_reg", "vitb14_reg"),
        ("dinov2_vitg14_reg4_pretrain.pth", "vitg14_reg"),
        ("dinov2_vits14_pretrain", "vits14"),
    ],
)
def test_names(name, preset):
    release = find_release(name)
    assert release.preset == preset and release.name in RELEASES and not release.changes


def test_satellite_models_are_others():
    """Other statistics, and ViT-L has a norm more than the web model of its size."""
    large = find_release("dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth")
    assert large.images == SATELLITE != find_release("dinov3_vitl16").images
    assert large.changes == {"untie_global_and_local_cls_norm": True}
    assert find_release("dinov3_vit7b16_sat493m").changes == {}


def test_every_name_is_found():
    assert {find_release(name).preset for name in RELEASES} == PRESETS.keys() - {*UNRELEASED}
    assert len(RELEASES) == len(PRESETS) - len(UNRELEASED) + 2


SIZES_V3 = ("vits16", "vits16plus", "vitb16", "vitl16", "vitl16plus", "vith16plus", "vit7b16")
HASHES = {
    **dict(zip((f"{size}_pretrain_lvd1689m" for size in SIZES_V3), (
        "08c60483", "4057cbaa", "73cec8be", "8aa4cbdd", "46503df0", "7c1da9a5", "a955f4ea",
    ), strict=True)),
    "vitl16_pretrain_sat493m": "eadcf0ff",
    "vit7b16_pretrain_sat493m": "a6675841",
    "convnext_tiny_pretrain_lvd1689m": "21b726bb",
    "convnext_small_pretrain_lvd1689m": "296db49d",
    "convnext_base_pretrain_lvd1689m": "801f2ba9",
    "convnext_large_pretrain_lvd1689m": "61fa432d",
}  # fmt: skip
FILES = [f"dinov3_{stem}-{digits}" for stem, digits in HASHES.items()] + [
    f"dinov2_vit{size}14{registers}_pretrain" for size in "sblg" for registers in ("", "_reg4")
]


def test_every_file_of_the_releases_is_one_model():
    """The names that the official repositories download, as .pth and converted."""
    found = {find_release(f"{stem}{suffix}").name for stem in FILES for suffix in (".pth", "")}
    assert found == {*RELEASES} and len(FILES) == len(RELEASES)
    converted = find_release(f"/weights/{FILES[0]}.safetensors")
    assert converted.name == "dinov3_vits16"


@pytest.mark.parametrize(
    "name",
    [
        "dinov3_vits14",
        "dinov3_vithuge2",
        "dinov2_vits16",
        "dinov3_vits16_sat493m",
        "dinov3_vitx16",
        "x",
    ],
)
def test_what_is_no_model(name):
    with pytest.raises(ValueError, match="is no released model; use one of dinov"):
        find_release(name)
