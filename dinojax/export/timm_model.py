"""Which model of `timm` a backbone is: a name and the arguments of ``timm.create_model``."""

from typing import Any

from dinojax.backbones.opened import ImageFormat
from dinojax.export.fits import require
from dinojax.models.convnext import ConvNeXt
from dinojax.models.ffn import hidden_width
from dinojax.models.presets import PRESETS, Backbone
from dinojax.models.vit import VisionTransformer

LIBRARY = "timm"
_EVA = {  # (width, depth, heads, gated): name
    (384, 12, 6, False): "vit_small_patch16_dinov3",
    (384, 12, 6, True): "vit_small_plus_patch16_dinov3",
    (768, 12, 12, False): "vit_base_patch16_dinov3",
    (1024, 24, 16, False): "vit_large_patch16_dinov3",
    (1280, 32, 20, True): "vit_huge_plus_patch16_dinov3",
    (4096, 40, 32, True): "vit_7b_patch16_dinov3",
}
_VIT = {
    (384, 12, 6, False): "vit_small_patch14",
    (768, 12, 12, False): "vit_base_patch14",
    (1024, 24, 16, False): "vit_large_patch14",
    (1536, 40, 24, True): "vit_giant_patch14",
}
_CONVNEXTS = tuple(name for name in PRESETS if name.startswith("convnext"))


def timm_model(backbone: Backbone, images: ImageFormat) -> tuple[str, dict[str, Any]]:
    """A model that takes the weights strictly; only arguments that JSON has.

    A preset has its own name there, other sizes are arguments of the nearest one. Without classes,
    and the default output is CLS.

    Raises:
        ValueError: `timm` has no such model; names the field.
    """
    given = {} if images.channels == 3 else {"in_chans": images.channels}
    if backbone.layerscale is None:
        require(backbone, LIBRARY, layerscale=("a number",))
    if isinstance(backbone, ConvNeXt):
        name, more = _convnext(backbone)
    else:
        require(backbone, LIBRARY, untie_cls_and_patch_norms=(False,), ffn_bias=(True,))
        family = _dinov3 if backbone.pos_embed_grid is None else _dinov2
        name, more = family(backbone)
    return name, {"num_classes": 0, **given, **more}


def _convnext(convnext: ConvNeXt) -> tuple[str, dict[str, Any]]:
    for name in _CONVNEXTS:
        model = PRESETS[name].model
        if (convnext.depths, convnext.dims) == (model["depths"], model["dims"]):
            return name, {}
    sizes = {"depths": list(convnext.depths), "dims": list(convnext.dims)}
    return "convnext_tiny", sizes


def _dinov3(vit: VisionTransformer) -> tuple[str, dict[str, Any]]:
    require(vit, LIBRARY, norm_layer=("layernormbf16",), proj_bias=(True,))
    require(vit, LIBRARY, pos_embed_rope_min_period=(None,), pos_embed_rope_max_period=(None,))
    require(vit, LIBRARY, pos_embed_rope_normalize_coords=("separate",))
    if vit.qkv_bias:
        require(vit, LIBRARY, mask_k_bias=(True,))
    gated = vit.ffn_layer != "mlp"
    nearest = (384, 12, 6, gated)
    sizes = (vit.embed_dim, vit.depth, vit.num_heads, gated)
    name, more = _sized(vit, _EVA, sizes, nearest)
    own_ratio = 2.0 if name == _EVA[4096, 40, 32, True] else 4.0
    hidden = hidden_width(vit.embed_dim, vit.ffn_ratio, vit.ffn_layer)
    if int(vit.embed_dim * own_ratio) != hidden:
        more["mlp_ratio"] = (hidden + 0.5) / vit.embed_dim
    if vit.qkv_bias and name != _EVA[4096, 40, 32, True]:
        name += "_qkvb"
    elif vit.qkv_bias:
        more["qkv_bias"] = True
    if vit.patch_size != 16:
        more["patch_size"] = vit.patch_size
    if vit.n_storage_tokens != 4:
        more["num_reg_tokens"] = vit.n_storage_tokens
    if vit.pos_embed_rope_base != 100:
        more["rope_temperature"] = vit.pos_embed_rope_base
    return name, {"global_pool": "token", **more}


def _dinov2(vit: VisionTransformer) -> tuple[str, dict[str, Any]]:
    require(vit, LIBRARY, norm_layer=("layernorm",), mask_k_bias=(False,))
    gated = vit.ffn_layer != "mlp"
    nearest = (1536, 40, 24, True) if gated else (384, 12, 6, False)
    sizes = (vit.embed_dim, vit.depth, vit.num_heads, gated)
    stem, more = _sized(vit, _VIT, sizes, nearest)
    packed = (1 + gated) * hidden_width(vit.embed_dim, vit.ffn_ratio, vit.ffn_layer)
    if int(vit.embed_dim * (2.66667 * 2 if gated else 4)) != packed:
        more["mlp_ratio"] = (packed + 0.5) / vit.embed_dim
    assert vit.pos_embed_grid is not None
    side = vit.pos_embed_grid * vit.patch_size
    changes = {
        "patch_size": (vit.patch_size, 14),
        "img_size": (side, 518),
        "qkv_bias": (vit.qkv_bias, True),
        "proj_bias": (vit.proj_bias, True),
    }
    if vit.n_storage_tokens:
        changes["reg_tokens"] = (vit.n_storage_tokens, 4)
    more |= {name: value for name, (value, own) in changes.items() if value != own}
    name = f"{stem}{'_reg4' if vit.n_storage_tokens else ''}_dinov2"
    return name, {"dynamic_img_size": True, **more}


def _sized(
    vit: VisionTransformer,
    names: dict[tuple[int, int, int, bool], str],
    sizes: tuple[int, int, int, bool],
    nearest: tuple[int, int, int, bool],
) -> tuple[str, dict[str, Any]]:
    if sizes in names:
        return names[sizes], {}
    words = ("embed_dim", "depth", "num_heads")
    more = {
        word: value for word, value, own in zip(words, sizes, nearest, strict=False) if value != own
    }
    return names[nearest], more
