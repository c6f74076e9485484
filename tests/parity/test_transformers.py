"""Every backbone of full width against `transformers`, same random weights, two image sizes."""

import numpy as np
import pytest
from parity import peers

from dinojax.models.ffn import hidden_width
from dinojax.models.presets import PRESETS

pytestmark = pytest.mark.parity

VITS = [name for name, preset in PRESETS.items() if "depths" not in preset.model]
CONVNEXTS = [name for name in PRESETS if name not in VITS]


def make_vit(transformers, name: str, depth: int):
    """Their model for one of our presets."""
    ours = PRESETS[name].model
    width, ffn_layer = ours["embed_dim"], ours.get("ffn_layer", "mlp")
    gated, learned = ffn_layer != "mlp", "pos_embed_grid" in ours
    options = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": ours["num_heads"],
        "patch_size": ours["patch_size"],
    }
    if learned:
        with_registers = "n_storage_tokens" in ours
        kind = "Dinov2WithRegisters" if with_registers else "Dinov2"
        options |= {"image_size": peers.TABLE * ours["patch_size"], "use_swiglu_ffn": gated}
        options |= {"num_register_tokens": 4} if with_registers else {}
    else:
        kind = "DINOv3ViT"
        biases = ("query_bias", "value_bias") if not ours.get("qkv_bias", True) else ()
        options |= {
            "intermediate_size": hidden_width(width, ours.get("ffn_ratio", 4.0), ffn_layer),
            "num_register_tokens": 4,
            "use_gated_mlp": gated,
            "hidden_act": "silu" if gated else "gelu",
            **dict.fromkeys(biases, False),
        }
    config = getattr(transformers, f"{kind}Config")(**options)
    return getattr(transformers, f"{kind}Model")(config).eval()


@peers.wide_ones_are_slow({name: name for name in VITS})
def test_vit(name):
    """The image that is not square with masks."""
    import torch

    depth = peers.DEPTH.get(name, 2)
    module = make_vit(peers.import_transformers(), name, depth)
    peers.randomise(module)
    state = peers.to_reference(module, peers.TRANSFORMERS_NAMES)
    changes = {"depth": depth, "untie_global_and_local_cls_norm": False}  # theirs lacks that norm
    if "pos_embed_grid" in PRESETS[name].model:
        # Without registers theirs resamples by size, where the reference has its offset.
        changes |= {"pos_embed_grid": peers.TABLE, "interpolate_offset": 0.0}

    masks = [None, np.random.default_rng(2).random((2, 10)) < 0.3]
    for images, mask in zip(peers.random_images(name), masks, strict=True):
        with torch.no_grad():
            given = None if mask is None else torch.from_numpy(mask)
            output = module(torch.from_numpy(images), bool_masked_pos=given)
        ours = peers.our_features(name, state, images, mask, **changes)
        peers.assert_same(ours, output.last_hidden_state.numpy())


@peers.wide_ones_are_slow({name: name for name in CONVNEXTS})
def test_convnext(name):
    import torch

    transformers = peers.import_transformers()
    config = transformers.DINOv3ConvNextConfig(
        hidden_sizes=list(PRESETS[name].model["dims"]), depths=list(peers.CONVNEXT_DEPTHS)
    )
    module = transformers.DINOv3ConvNextModel(config).eval()
    peers.randomise(module)
    state = peers.renamed(module, peers.TRANSFORMERS_CONVNEXT_NAMES)
    for images in peers.random_images(name):
        with torch.no_grad():
            theirs = module(torch.from_numpy(images)).last_hidden_state.numpy()
        ours = peers.our_features(name, state, images, depths=peers.CONVNEXT_DEPTHS)
        peers.assert_same(ours, theirs)
