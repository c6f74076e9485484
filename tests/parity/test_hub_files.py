"""What `transformers` saves is loaded as it is, and gives its features."""

import numpy as np
import pytest
from parity import peers

import dinojax

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("preset", ["vits16", "vits14_reg", "convnext_tiny"])
def test_save_pretrained(tmp_path, preset):
    """A whole small model of each family, by the name that its entries have."""
    import torch

    transformers = peers.import_transformers()
    if preset == "convnext_tiny":
        module = transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig())
    elif preset == "vits16":
        module = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig())
    else:
        options = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518}
        config = transformers.Dinov2WithRegistersConfig(**options)
        module = transformers.Dinov2WithRegistersModel(config)
    module.eval()
    peers.randomise(module)
    module.save_pretrained(tmp_path)
    model = dinojax.load(f"{tmp_path}/model.safetensors")
    size = (1, 3, 2 * model.stride, 3 * model.stride)
    images = np.random.default_rng(1).normal(size=size).astype(np.float32)
    with torch.no_grad():
        theirs = module(torch.from_numpy(images)).last_hidden_state.numpy()
    found = model.features(images.transpose(0, 2, 3, 1))
    tokens = [found["cls"][:, None], found["registers"], found["patches"].reshape(1, 6, -1)]
    np.testing.assert_allclose(np.concatenate(tokens, 1), theirs, rtol=0, atol=1e-4)
