"""What PyTorch gets of a backbone: weights of a `transformers` model go through a run of ours."""

import jax
import numpy as np
import pytest
from parity import peers
from trained_runs import make_run, small_config

from dinojax.build.step import build_init
from dinojax.export.names import from_torch
from dinojax.export_torch import export_torch

pytestmark = pytest.mark.parity


def test_a_transformers_model_through_a_checkpoint(tmp_path):
    """Its weights, trained into a run of ours, leave it bit for bit, and give its features."""
    import torch
    from safetensors.torch import load_file

    transformers = peers.import_transformers()
    options = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    options |= {"intermediate_size": 256, "patch_size": 8, "num_register_tokens": 4}
    module = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**options)).eval()
    peers.randomise(module)
    official = peers.to_reference(module, peers.TRANSFORMERS_NAMES)

    config = small_config(student__arch="vits16", student__depth=2)
    like = jax.eval_shape(build_init(config)).teacher["backbone"]
    make_run(tmp_path / "run", config, from_torch(official, like))
    export_torch(str(tmp_path / "run"), str(tmp_path / "x.safetensors"))

    exported = load_file(tmp_path / "x.safetensors")
    buffers = exported.keys() - official.keys()
    assert buffers == {"rope_embed.periods", *(f"blocks.{i}.attn.qkv.bias_mask" for i in range(2))}
    for name, value in official.items():
        assert torch.equal(exported[name], torch.from_numpy(value)), name

    images = np.random.default_rng(1).normal(size=(2, 3, 16, 40)).astype(np.float32)
    with torch.no_grad():
        theirs = module(torch.from_numpy(images)).last_hidden_state.numpy()
    arrays = {name: value.numpy() for name, value in exported.items()}
    changes = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 8}
    peers.assert_same(peers.our_features("vits16", arrays, images, **changes), theirs)
