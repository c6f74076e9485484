"""Random-init DINOv3 of `transformers` and ours give the same features from the same weights."""

import numpy as np
import pytest
from parity import peers

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(("preset", "gated"), [("vits16", False), ("vits16plus", True)])
@pytest.mark.parametrize("masked", [False, True])
def test_features(preset, gated, masked):
    import torch

    transformers = peers.import_transformers()
    config = transformers.DINOv3ViTConfig(
        hidden_size=peers.SIZES["embed_dim"],
        intermediate_size=4 * peers.SIZES["embed_dim"],
        num_hidden_layers=peers.SIZES["depth"],
        num_attention_heads=peers.SIZES["num_heads"],
        patch_size=peers.SIZES["patch_size"],
        num_register_tokens=4,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
    )
    module = transformers.DINOv3ViTModel(config).eval()
    peers.randomise(module)

    rng = np.random.default_rng(1)
    images = rng.normal(size=peers.IMAGES).astype(np.float32)
    masks = rng.random((2, 40)) < 0.3 if masked else None
    with torch.no_grad():
        given = None if masks is None else torch.from_numpy(masks)
        theirs = module(torch.from_numpy(images), bool_masked_pos=given).last_hidden_state.numpy()
    state = peers.to_reference(module, peers.TRANSFORMERS_NAMES)
    state["mask_token"] = state["mask_token"].reshape(1, -1)
    peers.assert_same(peers.our_features(preset, state, images, masks), theirs)
