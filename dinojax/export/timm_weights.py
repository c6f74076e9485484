"""Files of `timm` under the official names: its Eva (DINOv3), VisionTransformer, ConvNeXt.

It has no mask token. Biases of q, k and v that are zero are left out, those of k always; models of
DINOv2 with registers have the position of CLS added to the CLS token.
"""

import math
import re
from collections.abc import Mapping

from dinojax.export.packed import File, Packed, Repacked, Shape

_BLOCK = r"blocks\.(\d+)\."
NAMES = (
    (r"reg_token", "storage_tokens"),
    (_BLOCK + r"gamma_(\d)", r"blocks.\1.ls\2.gamma"),
    (_BLOCK + r"mlp\.fc1_g\.(.*)", r"blocks.\1.mlp.w1.\2"),
    (_BLOCK + r"mlp\.fc1_x\.(.*)", r"blocks.\1.mlp.w2.\2"),
    (r"stem\.(.*)", r"downsample_layers.0.\1"),
    (r"stages\.(\d)\.downsample\.(.*)", r"downsample_layers.\1.\2"),
    (r"stages\.(\d)\.blocks\.(\d+)\.(gamma|norm\..*)", r"stages.\1.\2.\3"),
    (r"stages\.(\d)\.blocks\.(\d+)\.conv_dw\.(.*)", r"stages.\1.\2.dwconv.\3"),
    (r"stages\.(\d)\.blocks\.(\d+)\.mlp\.fc(.*)", r"stages.\1.\2.pwconv\3"),
    (r"head\.norm\.(.*)", r"norm.\1"),
)
"""(name there, official name); all others are the same, or `_pack` knows them."""
MARKS = re.compile(r"reg_token|stem\.0\.weight|blocks\.0\.(gamma_1|mlp\.fc1_g\.weight)")
"""Names that nobody else has."""
_BIAS = re.compile(_BLOCK + r"attn\.([qv])_bias")
_FC = re.compile(r"(blocks\.\d+\.mlp\.)(fc[12])(\..*)")


def is_timm(names: Mapping[str, object]) -> bool:
    """Whether these are names of a `timm` backbone; DINOv2's lack but the mask token."""
    plain_dinov2 = "pos_embed" in names and not {"mask_token", "register_tokens"} & names.keys()
    return plain_dinov2 or any(MARKS.fullmatch(name) for name in names)


class TimmWeights(Repacked):
    """Raises ValueError: two entries that mean the same."""

    def __init__(self, file: File):
        super().__init__(file, _pack(file.shapes))


def _pack(shapes: Mapping[str, Shape]) -> dict[str, Packed]:
    found: dict[str, Packed] = {}
    for given, shape in shapes.items():
        name = _plain(given, shapes)
        if name in found:
            raise ValueError(f"entries {found[name].parts[0]!r} and {given!r} are both {name!r}")
        found[name] = Packed((given,), shape)
    for given, shape in shapes.items():
        match = _BIAS.fullmatch(given)
        values = given.replace("q_bias", "v_bias")
        if match and match[2] == "q" and shapes.get(values) == shape:
            whole = Packed((given, shape, values), (3 * shape[0], *shape[1:]))
            found[f"blocks.{match[1]}.attn.qkv.bias"] = whole
            del found[given], found[values]
    table = found.get("pos_embed")
    if table is not None and "reg_token" in shapes and len(table.shape) == 3:
        _, patches, width = table.shape
        if math.isqrt(patches) ** 2 == patches:
            parts, shape = ((1, 1, width), "pos_embed"), (1, patches + 1, width)
            found["pos_embed"] = Packed(parts, shape, axis=1)
    return found


def _plain(name: str, shapes: Mapping[str, Shape]) -> str:
    for pattern, official in NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(official)
    if match := _FC.fullmatch(name):  # of a gated FFN, the gate apart or in one with the value
        first, second = (shapes.get(f"{match[1]}{part}.weight", ()) for part in ("fc1", "fc2"))
        gate = f"{match[1]}fc1_g.weight" in shapes
        if gate or (len(first) == len(second) == 2 and first[0] == 2 * second[1]):
            return match[1] + {"fc1": "w12", "fc2": "w3"}[match[2]] + match[3]
    return name
