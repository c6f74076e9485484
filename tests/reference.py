"""Translates the reference's option names and state dicts for the golden tests."""

import dataclasses
from typing import Any

import goldens
import numpy as np
from einops import rearrange

from dinojax.export.names import to_torch
from dinojax.models.vit import Features, VisionTransformer
from dinojax.precision import POLICIES

RENAMED = {"layerscale_init": "layerscale"}
TRAINING_ONLY = (
    "class_",
    "in_chans",
    "drop_path_rate",
    "pos_embed_rope_dtype",
    "pos_embed_rope_shift_coords",
    "pos_embed_rope_jitter_coords",
    "pos_embed_rope_rescale_coords",
)
ROPE_PRECISION = {"fp32": POLICIES["float32"].rope, "bf16": POLICIES["reference"].rope}
BF16_ROPE_ATOL = 1e-2
"""From the golden README: rounding q and k to bf16 moves outputs by about 1e-3."""


def vit_from_options(options: dict[str, Any]) -> VisionTransformer:
    """A ViT from constructor options of the reference's ``DinoVisionTransformer``."""
    fields = {RENAMED.get(k, k): v for k, v in options.items() if k not in TRAINING_ONLY}
    precision = dataclasses.replace(
        POLICIES["float32"], rope=ROPE_PRECISION[options.get("pos_embed_rope_dtype", "bf16")]
    )
    return VisionTransformer(precision=precision, **{"layerscale": None, **fields})


def features_dict(features: Features) -> dict[str, Any]:
    """Features of one group under the reference's names."""
    return {
        "x_norm_clstoken": features.cls[0],
        "x_storage_tokens": features.registers[0],
        "x_norm_patchtokens": features.patches[0],
        "x_prenorm": features.prenorm[0],
    }


def atol_of(options: dict[str, Any]) -> float | None:
    """None (the manifest's own tolerance), or the README's for bf16 RoPE."""
    return BF16_ROPE_ATOL if options.get("pos_embed_rope_dtype", "bf16") == "bf16" else None


def check_gradients(path: str, tag: str, grads: Any, *, atol: float | None = None) -> None:
    """Compare the gradient of every parameter that the golden file lists below ``<tag>/grad``."""
    prefix = f"{tag}/grad" if tag else "grad"
    ours = to_torch(grads)
    listed = goldens.children(path, prefix)
    assert listed, f"{path} has no gradients below {prefix}"
    for name in listed:
        goldens.check(path, f"{prefix}/{name}", ours[name].reshape(listed[name].shape), atol=atol)
    absent = f"{tag}/params_without_grad" if tag else "params_without_grad"
    for name in goldens.arrays(path).get(absent, np.array([])):
        assert not ours[str(name)].any(), f"{name} has no gradient in the reference"


def to_nchw(x: Any) -> np.ndarray:
    return rearrange(np.asarray(x), "b h w c -> b c h w")
