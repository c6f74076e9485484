"""Files of random weights in every layout that weights come in."""

from pathlib import Path

import numpy as np

from dinojax.export.buffers import official_buffers
from dinojax.export.hf_names import to_hf
from dinojax.export.names import to_torch
from dinojax.export.safetensors_file import write_safetensors
from dinojax.export.timm_names import to_timm
from dinojax.models.presets import PRESETS, Backbone, backbone_shapes
from dinojax.precision import get_precision
from dinojax.trees import flatten, map_named
from dinojax.typing import Params

LAYOUTS = ("official", "huggingface", "timm", "dinojax")
MASKED = 1
"""Of q, k and v the bias that is masked."""


def small(preset: str, **changes: object) -> Backbone:
    """A backbone of this kind that is tiny."""
    sizes: dict[str, object] = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    if "dims" in PRESETS[preset].model:
        sizes = {"depths": (1, 2, 1, 1), "dims": (8, 12, 16, 24)}
    elif "pos_embed_grid" in PRESETS[preset].model:
        sizes["pos_embed_grid"] = 3
    return PRESETS[preset].build(get_precision("float32"), **{**sizes, **changes})


def random_params(backbone: Backbone) -> Params:
    """Normal values, the masked biases of keys zero as training leaves them."""
    rng = np.random.default_rng(0)

    def draw(path: str, leaf) -> np.ndarray:
        value = rng.normal(size=leaf.shape).astype(np.float32)
        if path.endswith("qkv/bias") and getattr(backbone, "mask_k_bias", False):
            value[:, MASKED] = 0
        return value

    return map_named(draw, backbone_shapes(backbone, 3))


def write_layout(
    path: Path, layout: str, backbone: Backbone, params: Params, **metadata: str
) -> Path:
    """As other code, or `dinojax.export_torch`, would write these parameters."""
    state = to_torch(params)
    if layout == "official":
        tensors = state | official_buffers(backbone, state)
    elif layout == "dinojax":
        tensors = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    else:
        out = (to_hf if layout == "huggingface" else to_timm)(backbone, state)
        tensors, metadata = out.tensors, metadata | out.header()
    write_safetensors(path, tensors, metadata)
    return path
