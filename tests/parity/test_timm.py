"""Random-init DINOv3 of `timm` and ours give the same features from the same weights."""

import numpy as np
import pytest
from parity import peers

pytestmark = pytest.mark.parity

MODELS = {  # theirs: (our preset, with biases of q and v)
    "vit_small_patch16_dinov3": ("vits16", False),
    "vit_small_patch16_dinov3_qkvb": ("vits16", True),
    "vit_small_plus_patch16_dinov3": ("vits16plus", False),
    "vit_small_plus_patch16_dinov3_qkvb": ("vits16plus", True),
}


@pytest.mark.parametrize("name", MODELS)
def test_features(name):
    import torch

    preset, qkv_bias = MODELS[name]
    module = peers.import_timm().create_model(
        name, pretrained=False, num_classes=0, img_size=64, **peers.SIZES
    )
    module.eval()
    peers.randomise(module)

    images = np.random.default_rng(1).normal(size=peers.IMAGES).astype(np.float32)
    with torch.no_grad():
        theirs = module.forward_features(torch.from_numpy(images)).numpy()
    state = peers.to_reference(module, peers.TIMM_NAMES)
    ours = peers.our_features(preset, state, images, qkv_bias=qkv_bias)
    peers.assert_same(ours, theirs)
