"""Crops through a backbone: normalised, padded to whole patches, one layer or several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.dense_encoder import make_patch_encoder
from dinojax.models.presets import get_preset
from dinojax.models.vit import VisionTransformer
from dinojax.precision import POLICIES

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
PATCH, D = 8, 16


@pytest.fixture(scope="module")
def backbone():
    module = VisionTransformer(
        embed_dim=D,
        depth=3,
        num_heads=2,
        patch_size=PATCH,
        n_storage_tokens=1,
        layerscale=1.0,
        init_std=0.2,
        precision=POLICIES["float32"],
    )
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 1, PATCH, PATCH, 3)))
    return module, params["params"]


def test_patches_of_the_last_layers(backbone):
    """20 x 30 pixels: two more rows and one more column on each side, in the mean colour."""
    module, params = backbone
    images = np.random.default_rng(0).uniform(0, 255, (2, 20, 30, 3)).astype(np.float32)
    content = np.ones((2, 20, 30), bool)
    content[1, 12:] = False
    encode = jax.jit(make_patch_encoder(module, mean=MEAN, std=STD, layers=2))
    found = encode(params, images, content)
    assert found.shape == (2, 3, 4, 2 * D)
    normed = np.where(content[..., None], (images / 255 - MEAN) / STD, 0).astype(np.float32)
    padded = np.pad(normed, ((0, 0), (2, 2), (1, 1), (0, 0)))
    expected = jax.jit(
        lambda x: module.apply({"params": params}, x[None], [1, 2], method="intermediate")
    )(padded)
    for layer, features in enumerate(expected):
        here = found[..., layer * D : (layer + 1) * D].reshape(2, 12, D)
        np.testing.assert_allclose(here, features.patches[0], atol=1e-4)
    assert np.abs(expected[0].patches - expected[1].patches).max() > 0.1


def test_layers_that_there_are_not(backbone):
    with pytest.raises(ValueError, match=r"layers=4 must lie in 1\.\.3"):
        make_patch_encoder(backbone[0], mean=MEAN, std=STD, layers=4)
    stages = get_preset("convnext_tiny").build(POLICIES["float32"])
    with pytest.raises(ValueError, match=r"layers=2 must lie in 1\.\.1"):
        make_patch_encoder(stages, mean=MEAN, std=STD, layers=2)
