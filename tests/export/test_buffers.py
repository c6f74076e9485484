"""With its constants an export has every entry of an official state dict, and no other."""

import re

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import convnext_from_options, is_dinov2, vit_from_options

from dinojax.export.buffers import official_buffers
from dinojax.export.dinov2_names import plain_name
from dinojax.export.names import from_torch, to_torch

pytestmark = pytest.mark.golden
FILES = [
    path
    for prefix in ("vit3/", "convnext/", "dinov2/")
    for path in goldens.files(prefix, ".state.safetensors")
    if "class_" in goldens.options(path)
]


@pytest.mark.parametrize("path", FILES)
def test_official_state_dicts(path):
    """In and out again: the file, bit for bit; constants to the last place."""
    options, official = goldens.options(path), goldens.arrays(path)
    make = convnext_from_options if "ConvNeXt" in options["class_"] else vit_from_options
    model = make(options)
    images = jnp.zeros((1, 1, 64, 64, options.get("in_chans", 3)))
    if not path.startswith("convnext/"):
        side = 2 * options["patch_size"]
        images = images[:, :, :side, :side]
    like = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    state = to_torch(from_torch(official, like))
    state |= official_buffers(model, state)
    # Blocks in chunks have one number more, which only some of DINOv2's files have.
    names = {re.sub(r"^blocks\.\d+\.(?=\d)", "blocks.", name): name for name in official}
    assert state.keys() == names.keys()
    for name, value in state.items():
        expected = official[names[name]]
        assert value.dtype == expected.dtype and value.shape == expected.shape, name
        if name == "rope_embed.periods":
            np.testing.assert_allclose(value, expected, rtol=2e-7)
        else:
            np.testing.assert_array_equal(value, expected, err_msg=name)
    assert any(plain_name(name) == "mask_token" for name in state) or "Conv" in options["class_"]
    assert is_dinov2(options) == ("rope_embed.periods" not in state and "mask_token" in state)
