"""Every backbone of DINOv2 and DINOv3 by name, as released.

Numbers are those of arXiv:2304.07193 (table 17, which gives ViT-B 18 layers where code and weights
have 12), arXiv:2508.10104 (tables 2 and 17), and their code.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dinojax.models.convnext import ConvNeXt
from dinojax.models.pixels import Pixels
from dinojax.models.vit import VisionTransformer
from dinojax.precision import Precision
from dinojax.typing import Params

Backbone = VisionTransformer | ConvNeXt

_DINOV3 = {
    "patch_size": 16,
    "n_storage_tokens": 4,
    "norm_layer": "layernormbf16",
    "mask_k_bias": True,
}
_DINOV2 = {"patch_size": 14, "pos_embed_grid": 37}
_REGISTERS = {"n_storage_tokens": 4, "interpolate_offset": 0.0, "interpolate_antialias": True}


FIELDS = frozenset(
    field.name for kind in (VisionTransformer, ConvNeXt) for field in dataclasses.fields(kind)
) - {"parent", "name", "precision"}
"""What a preset or a configuration may say of a backbone."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """Constructor arguments of a backbone and its exact parameter count for RGB input."""

    model: dict[str, Any]
    parameters: int
    backbone: type[VisionTransformer] | type[ConvNeXt] = VisionTransformer

    def build(self, precision: Precision, **changes: Any) -> Backbone:
        """The backbone, with `changes` of its fields.

        Raises:
            ValueError: a field that this kind of backbone does not have.
        """
        known = {field.name for field in dataclasses.fields(self.backbone)}
        for name, value in changes.items():
            if name not in known:
                raise ValueError(
                    f"{name}={value!r} is not a field of {self.backbone.__name__}; leave it at None"
                )
        return self.backbone(precision=precision, **{**self.model, **changes})


def _vit(
    width: int, depth: int, heads: int, parameters: int, family: dict[str, Any], **more: Any
) -> Preset:
    model = {"embed_dim": width, "depth": depth, "num_heads": heads, **family, **more}
    return Preset(model, parameters)


def _v3(width: int, depth: int, heads: int, parameters: int, **more: Any) -> Preset:
    return _vit(width, depth, heads, parameters, _DINOV3, **more)


def _v2(width: int, depth: int, heads: int, parameters: int, **more: Any) -> Preset:
    return _vit(width, depth, heads, parameters, _DINOV2, **more)


def _convnext(depths: tuple[int, ...], width: int, parameters: int) -> Preset:
    dims = (width, 2 * width, 4 * width, 8 * width)
    return Preset({"depths": depths, "dims": dims}, parameters, ConvNeXt)


_SWIGLU = {"ffn_layer": "swiglu", "ffn_ratio": 6.0}
_7B = {
    "ffn_layer": "swiglu64",
    "ffn_ratio": 3.0,
    "qkv_bias": False,
    "untie_global_and_local_cls_norm": True,
}

PRESETS: dict[str, Preset] = {
    "vits14": _v2(384, 12, 6, 22_056_576),
    "vits14_reg": _v2(384, 12, 6, 22_058_112, **_REGISTERS),
    "vitb14": _v2(768, 12, 12, 86_580_480),
    "vitb14_reg": _v2(768, 12, 12, 86_583_552, **_REGISTERS),
    "vitl14": _v2(1024, 24, 16, 304_368_640),
    "vitl14_reg": _v2(1024, 24, 16, 304_372_736, **_REGISTERS),
    "vitg14": _v2(1536, 40, 24, 1_136_480_768, ffn_layer="swiglu"),
    "vitg14_reg": _v2(1536, 40, 24, 1_136_486_912, ffn_layer="swiglu", **_REGISTERS),
    "vits16": _v3(384, 12, 6, 21_601_152),
    "vits16plus": _v3(384, 12, 6, 28_697_472, **_SWIGLU),
    "vitb16": _v3(768, 12, 12, 85_669_632),
    "vitl16": _v3(1024, 24, 16, 303_154_176),
    "vitl16plus": _v3(1024, 24, 16, 403_915_776, **_SWIGLU),
    "vitso400m16": _v3(1152, 27, 18, 415_411_200, ffn_ratio=3.777777778),
    "vithuge2": _v3(1280, 32, 20, 630_754_560),
    "vith16plus": _v3(1280, 32, 20, 840_633_600, **_SWIGLU),
    "vitgiant2": _v3(1536, 40, 24, 1_134_577_152),
    "vit7b16": _v3(4096, 40, 32, 6_716_043_264, **_7B),
    "convnext_tiny": _convnext((3, 3, 9, 3), 96, 27_820_128),
    "convnext_small": _convnext((3, 3, 27, 3), 96, 49_454_688),
    "convnext_base": _convnext((3, 3, 27, 3), 128, 87_566_464),
    "convnext_large": _convnext((3, 3, 27, 3), 192, 196_230_336),
}


def get_preset(name: str) -> Preset:
    """Look a preset up.

    Raises:
        ValueError: the name is not in `PRESETS`.
    """
    if name not in PRESETS:
        raise ValueError(f"arch={name!r} is not a preset; use one of {sorted(PRESETS)}")
    return PRESETS[name]


def configured(section: Mapping[str, Any], precision: Precision) -> Backbone:
    """The preset ``arch`` of a configuration's section with the fields that the section overrides.

    Keys that no backbone has, and those that are None, leave it as it is.

    Raises:
        ValueError: no such preset, or an override of what this kind of backbone does not have.
    """
    changes = {
        name: tuple(value) if isinstance(value, list) else value  # as JSON has it
        for name, value in section.items()
        if name in FIELDS and value is not None
    }
    if changes.get("pos_embed_rope_base") == 0:
        changes["pos_embed_rope_base"] = None
    return get_preset(section["arch"]).build(precision, **changes)


def layer_count(backbone: Backbone | Pixels) -> int:
    """How many layers `intermediate` chooses from; of a ConvNeXt the stages."""
    return len(backbone.depths) if isinstance(backbone, ConvNeXt) else backbone.depth


def backbone_shapes(backbone: Backbone, channels: int) -> Params:
    """Shapes and dtypes of its parameters, for images of so many channels."""
    side = backbone.stride

    def init(key: jax.Array) -> Params:
        return dict(backbone.init(key, jnp.zeros((1, 1, side, side, channels))))

    return jax.eval_shape(init, jax.random.key(0)).get("params", {})
