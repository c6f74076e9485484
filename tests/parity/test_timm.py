"""Backbones of full width against `timm`, with the same random weights, on two image sizes."""

import numpy as np
import pytest
from parity import peers

from dinojax.models.presets import PRESETS

pytestmark = pytest.mark.parity

DINOV3 = {  # theirs: (our preset, with biases of q and v)
    "vit_small_patch16_dinov3": ("vits16", False),
    "vit_small_patch16_dinov3_qkvb": ("vits16", True),
    "vit_small_plus_patch16_dinov3": ("vits16plus", False),
    "vit_small_plus_patch16_dinov3_qkvb": ("vits16plus", True),
    "vit_base_patch16_dinov3_qkvb": ("vitb16", True),
    "vit_large_patch16_dinov3_qkvb": ("vitl16", True),
    "vit_huge_plus_patch16_dinov3_qkvb": ("vith16plus", True),
    "vit_7b_patch16_dinov3": ("vit7b16", False),
}
DINOV2 = {
    "vit_small_patch14_dinov2": "vits14",
    "vit_small_patch14_reg4_dinov2": "vits14_reg",
    "vit_base_patch14_dinov2": "vitb14",
    "vit_base_patch14_reg4_dinov2": "vitb14_reg",
    "vit_large_patch14_dinov2": "vitl14",
    "vit_large_patch14_reg4_dinov2": "vitl14_reg",
    "vit_giant_patch14_dinov2": "vitg14",
    "vit_giant_patch14_reg4_dinov2": "vitg14_reg",
}


def check_vit(name: str, preset: str, their_options: dict, **changes) -> None:
    import torch

    depth = peers.DEPTH.get(preset, 2)
    module = peers.import_timm().create_model(
        name, pretrained=False, num_classes=0, depth=depth, **their_options
    )
    module.eval()
    peers.randomise(module)
    state = peers.to_reference(module, peers.TIMM_NAMES)
    for images in peers.random_images(preset):
        with torch.no_grad():
            theirs = module.forward_features(torch.from_numpy(images)).numpy()
        peers.assert_same(peers.our_features(preset, state, images, depth=depth, **changes), theirs)


@peers.wide_ones_are_slow({name: preset for name, (preset, _) in DINOV3.items()})
def test_dinov3(name):
    preset, qkv_bias = DINOV3[name]
    check_vit(
        name, preset, {"img_size": 64}, qkv_bias=qkv_bias, untie_global_and_local_cls_norm=False
    )


@peers.wide_ones_are_slow(DINOV2)
def test_dinov2(name):
    """timm resamples all position tables as the reference does those of models with registers."""
    check_vit(
        name,
        DINOV2[name],
        {"img_size": 14 * peers.TABLE, "dynamic_img_size": True},
        pos_embed_grid=peers.TABLE,
        interpolate_offset=0.0,
        interpolate_antialias=True,
    )


@peers.wide_ones_are_slow({name: name for name in PRESETS if name.startswith("convnext")})
def test_convnext(name):
    """Maps before the final norm, and the normed mean that stands for CLS."""
    import torch

    module = peers.import_timm().create_model(
        name, pretrained=False, num_classes=0, depths=peers.CONVNEXT_DEPTHS
    )
    module.eval()
    peers.randomise(module)
    state = peers.renamed(module, peers.TIMM_CONVNEXT_NAMES)
    for images in peers.random_images(name):
        with torch.no_grad():
            maps = module.forward_features(torch.from_numpy(images))
            pooled = module.forward_head(maps, pre_logits=True).numpy()
        ours = peers.our_features(name, state, images, depths=peers.CONVNEXT_DEPTHS)
        theirs = maps.flatten(2).transpose(1, 2).numpy()
        np.testing.assert_allclose(ours.prenorm[0], theirs, rtol=0, atol=peers.ATOL)
        np.testing.assert_allclose(ours.cls[0], pooled, rtol=0, atol=peers.ATOL)
        assert np.abs(theirs).mean() > 0.1
