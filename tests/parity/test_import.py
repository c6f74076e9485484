"""Files that PyTorch itself has written: read exactly, and never run."""

import os
import pickle

import jax
import ml_dtypes
import numpy as np
import pytest
from layouts import random_params, small
from parity import peers

from dinojax import mesh as meshes
from dinojax.export.incoming import Incoming
from dinojax.export.names import to_torch
from dinojax.export.torch_file import TorchFile
from dinojax.export.weights import open_weights
from dinojax.models.presets import backbone_shapes
from dinojax.runtime.checkpoint import abstract

pytestmark = pytest.mark.parity


def placed(path, like):
    mesh = meshes.make_mesh(1, 8)
    incoming = Incoming(open_weights(str(path), allow_pth=True), like)
    incoming.check(missing=["mask_token"])
    wanted = abstract(like, meshes.shardings(mesh, like))
    return incoming.place(wanted, lambda path: np.zeros((64,), np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_save(tmp_path, dtype, zipped):
    """Of either format, in every dtype of weights, as its training wraps it."""
    import torch

    backbone = small("vits16")
    params = random_params(backbone)
    kind = getattr(torch, dtype)
    state = {f"backbone.{n}": torch.from_numpy(x).to(kind) for n, x in to_torch(params).items()}
    path = tmp_path / "x.pth"
    torch.save({"teacher": state}, path, _use_new_zipfile_serialization=zipped)
    numpy_dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    expected = jax.tree.map(lambda x: x.astype(numpy_dtype).astype(np.float32), params)
    found = placed(path, backbone_shapes(backbone, 3))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("wrapped", [True, False])
def test_malicious_pickles_do_not_run(tmp_path, wrapped):
    import torch

    path, trace = tmp_path / "x.pth", tmp_path / "trace"
    if wrapped:
        torch.save({"a": torch.zeros(2), "b": Malicious(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(trace)))
    with pytest.raises(ValueError, match=r"x\.pth is damaged or holds more .*has been run"):
        TorchFile(path)
    assert not trace.exists()


@pytest.mark.parametrize("size", [0, 3, 100, -50])
def test_truncated_files(tmp_path, size):
    import torch

    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"x\.pth is damaged"):
        TorchFile(path)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"])
def test_timm_files(tmp_path, name):
    """What timm saves of its models, with and without biases."""
    from safetensors.torch import save_file

    module = peers.import_timm().create_model(
        name, pretrained=False, num_classes=0, depth=2, embed_dim=64, num_heads=2, img_size=64
    )
    peers.randomise(module)
    save_file(dict(module.state_dict()), tmp_path / "x.safetensors")
    backbone = small("vits16")
    found = placed(tmp_path / "x.safetensors", backbone_shapes(backbone, 3))
    expected = peers.to_reference(module, peers.TIMM_NAMES)
    expected |= {
        f"blocks.{layer}.attn.qkv.bias": np.zeros(192, np.float32)
        for layer in range(2)
        if f"blocks.{layer}.attn.qkv.bias" not in expected
    }
    state = to_torch(jax.device_get(found))
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)
