"""What `transformers` asks of a backbone beside its weights: model and preprocessor settings."""

from functools import partial
from typing import Any

from dinojax.backbones.opened import ImageFormat
from dinojax.export.fits import require
from dinojax.export.hf_names import key_bias
from dinojax.models.convnext import ConvNeXt
from dinojax.models.ffn import hidden_width
from dinojax.models.norm import NORM_LAYERS
from dinojax.models.presets import Backbone
from dinojax.models.vit import VisionTransformer

LIBRARY = "transformers"
BILINEAR, BICUBIC = 2, 3
"""Pillow's numbers."""


def hf_config(backbone: Backbone, images: ImageFormat) -> dict[str, Any]:
    """The contents of ``config.json``.

    Raises:
        ValueError: `transformers` has no such model; names the field.
    """
    config = _model(backbone, images)
    return {**config, "num_channels": images.channels, "dtype": "float32"}


def hf_preprocessor(backbone: Backbone, images: ImageFormat) -> dict[str, Any]:
    """The contents of ``preprocessor_config.json``: the whole image at the size of evaluations.

    DINOv2's crops the centre of an image 8/7 as large, as its linear evaluation does.
    """
    side = images.image_px
    common = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
    }
    if isinstance(backbone, ConvNeXt) or backbone.pos_embed_grid is None:
        square = {"height": side, "width": side}
        kind = "DINOv3ViTImageProcessorFast"  # version 4 has no other; version 5 knows it too
        return {"image_processor_type": kind, "size": square, "resample": BILINEAR, **common}
    return {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": side * 8 // 7},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_convert_rgb": images.channels == 3,
        "resample": BICUBIC,
        **common,
    }


def hf_differences(backbone: Backbone) -> list[str]:
    """What the model there computes otherwise, in sentences."""
    if isinstance(backbone, ConvNeXt):
        return []
    if backbone.pos_embed_grid is None:
        rounded = backbone.precision.rope != backbone.precision.param
        said = "It rotates in float32; this model was trained with periods rounded to bfloat16."
        return [said] if rounded else []
    grid, px = backbone.pos_embed_grid, backbone.pos_embed_grid * backbone.patch_size
    antialias = bool(backbone.n_storage_tokens)
    if (backbone.interpolate_offset, backbone.interpolate_antialias) == (0, antialias):
        return []
    return [
        f"For images of other than {px}x{px} px it resamples the table of {grid}x{grid} positions "
        f"{'with' if antialias else 'without'} antialiasing by the exact size; this model was "
        f"trained with interpolate_offset={backbone.interpolate_offset} and "
        f"interpolate_antialias={backbone.interpolate_antialias}."
    ]


def _model(backbone: Backbone, images: ImageFormat) -> dict[str, Any]:
    if isinstance(backbone, ConvNeXt):
        if backbone.layerscale is None:
            require(backbone, LIBRARY, layerscale=("a number",))
        return {
            "model_type": "dinov3_convnext",
            "architectures": ["DINOv3ConvNextModel"],
            "hidden_sizes": list(backbone.dims),
            "depths": list(backbone.depths),
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "layer_scale_init_value": backbone.layerscale,
            "image_size": images.image_px,
        }
    require(backbone, LIBRARY, norm_layer=("layernorm", "layernormbf16"))
    require(backbone, LIBRARY, untie_cls_and_patch_norms=(False,))
    if backbone.layerscale is None:
        require(backbone, LIBRARY, layerscale=("a number",))
    make = NORM_LAYERS[backbone.norm_layer]
    assert isinstance(make, partial)
    common = {
        "hidden_size": backbone.embed_dim,
        "num_hidden_layers": backbone.depth,
        "num_attention_heads": backbone.num_heads,
        "patch_size": backbone.patch_size,
        "layer_norm_eps": make.keywords["epsilon"],
        "layerscale_value": backbone.layerscale,
    }
    family = _dinov3 if backbone.pos_embed_grid is None else _dinov2
    return {**common, **family(backbone, images)}


def _dinov3(vit: VisionTransformer, images: ImageFormat) -> dict[str, Any]:
    require(vit, LIBRARY, pos_embed_rope_min_period=(None,), pos_embed_rope_max_period=(None,))
    require(vit, LIBRARY, pos_embed_rope_normalize_coords=("separate",))
    gated = vit.ffn_layer != "mlp"
    return {
        "model_type": "dinov3_vit",
        "architectures": ["DINOv3ViTModel"],
        "image_size": images.image_px,
        "intermediate_size": hidden_width(vit.embed_dim, vit.ffn_ratio, vit.ffn_layer),
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "num_register_tokens": vit.n_storage_tokens,
        "rope_theta": vit.pos_embed_rope_base,
        "query_bias": vit.qkv_bias,
        "key_bias": key_bias(vit),
        "value_bias": vit.qkv_bias,
        "proj_bias": vit.proj_bias,
        "mlp_bias": vit.ffn_bias,
    }


def _dinov2(vit: VisionTransformer, images: ImageFormat) -> dict[str, Any]:
    require(vit, LIBRARY, proj_bias=(True,), ffn_bias=(True,), mask_k_bias=(False,))
    require(vit, LIBRARY, ffn_layer=("mlp", "swiglu"), ffn_ratio=(int(vit.ffn_ratio),))
    registers = {"num_register_tokens": vit.n_storage_tokens} if vit.n_storage_tokens else {}
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    assert vit.pos_embed_grid is not None
    return {
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "architectures": [f"{kind}Model"],
        "image_size": vit.pos_embed_grid * vit.patch_size,
        "mlp_ratio": int(vit.ffn_ratio),
        "use_swiglu_ffn": vit.ffn_layer == "swiglu",
        "hidden_act": "gelu",
        "qkv_bias": vit.qkv_bias,
        **registers,
    }
