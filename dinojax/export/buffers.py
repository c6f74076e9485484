"""What a released DINOv3 file holds beside parameters: constants, which PyTorch loads strictly.

They follow from the architecture, so the way in ignores them (`names.BUFFERS`).
"""

from collections.abc import Mapping

import numpy as np

from dinojax.kernels.rope import rope_periods
from dinojax.models.convnext import ConvNeXt
from dinojax.models.presets import Backbone
from dinojax.models.vit import VisionTransformer

PERIODS = "rope_embed.periods"


def official_buffers(backbone: Backbone, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Constants of a backbone by their official names; none for DINOv2.

    RoPE's periods; the masks that take the key third out of the bias of q, k and v; ConvNeXt's
    final norm under its second name.

    Args:
        state: the parameters of the same backbone (`names.to_torch`).
    """
    if isinstance(backbone, ConvNeXt):
        return {f"norms.3.{kind}": state[f"norm.{kind}"] for kind in ("weight", "bias")}
    if backbone.pos_embed_grid is not None:
        return {}
    dtype = state["cls_token"].dtype
    buffers = {PERIODS: rope_buffer(backbone).astype(dtype)}
    if backbone.mask_k_bias and backbone.qkv_bias:
        mask = np.repeat(np.array([1, 0, 1], dtype), backbone.embed_dim)
        for layer in range(backbone.depth):
            buffers[f"blocks.{layer}.attn.qkv.bias_mask"] = mask
    return buffers


def rope_buffer(backbone: VisionTransformer) -> np.ndarray:
    """The periods of a model that rotates, as its attention takes them."""
    periods = rope_periods(
        backbone.embed_dim // backbone.num_heads,
        base=backbone.pos_embed_rope_base,
        min_period=backbone.pos_embed_rope_min_period,
        max_period=backbone.pos_embed_rope_max_period,
        dtype=backbone.precision.rope,
    )
    return np.asarray(periods)
