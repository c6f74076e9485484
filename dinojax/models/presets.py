"""Every DINOv3 ViT by name: the numbers of arXiv:2508.10104 (tables 2 and 17) and its code."""

import dataclasses
from typing import Any

_RELEASED = {
    "patch_size": 16,
    "n_storage_tokens": 4,
    "norm_layer": "layernormbf16",
    "mask_k_bias": True,
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """Constructor arguments of a backbone and its exact parameter count for RGB input."""

    model: dict[str, Any]
    parameters: int


def _vit(width: int, depth: int, heads: int, parameters: int, **more: Any) -> Preset:
    model = {"embed_dim": width, "depth": depth, "num_heads": heads, **_RELEASED, **more}
    return Preset(model, parameters)


_SWIGLU = {"ffn_layer": "swiglu", "ffn_ratio": 6.0}
_7B = {
    "ffn_layer": "swiglu64",
    "ffn_ratio": 3.0,
    "qkv_bias": False,
    "untie_global_and_local_cls_norm": True,
}

PRESETS: dict[str, Preset] = {
    "vits16": _vit(384, 12, 6, 21_601_152),
    "vits16plus": _vit(384, 12, 6, 28_697_472, **_SWIGLU),
    "vitb16": _vit(768, 12, 12, 85_669_632),
    "vitl16": _vit(1024, 24, 16, 303_154_176),
    "vitl16plus": _vit(1024, 24, 16, 403_915_776, **_SWIGLU),
    "vitso400m16": _vit(1152, 27, 18, 415_411_200, ffn_ratio=3.777777778),
    "vithuge2": _vit(1280, 32, 20, 630_754_560),
    "vith16plus": _vit(1280, 32, 20, 840_633_600, **_SWIGLU),
    "vitgiant2": _vit(1536, 40, 24, 1_134_577_152),
    "vit7b16": _vit(4096, 40, 32, 6_716_043_264, **_7B),
}


def get_preset(name: str) -> Preset:
    """Look a preset up.

    Raises:
        ValueError: the name is not in `PRESETS`.
    """
    if name not in PRESETS:
        raise ValueError(f"arch={name!r} is not a preset; use one of {sorted(PRESETS)}")
    return PRESETS[name]
