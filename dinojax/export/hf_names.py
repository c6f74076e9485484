"""Weights of Hugging Face's `transformers` under the official names: only names and packing change.

Its modules keep query, key and value apart, leave out biases that are zero, and number stages
otherwise. Names of version 4, which the hub's files have, and of version 5 are both known.
"""

import re
from collections.abc import Mapping

from dinojax.export.packed import File, Packed, Repacked, Shape

_LAYER = r"(?:model\.|encoder\.)?layer\.(\d+)\."
_STAGE = r"(?:model\.)?stages\.(\d)\."
_QKV = {"q": "q", "query": "q", "k": "k", "key": "k", "v": "v", "value": "v"}
NAMES = (
    (r"embeddings\.(cls_token|mask_token)", r"\1"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.register_tokens", "storage_tokens"),
    (r"embeddings\.patch_embeddings\.(?:projection\.)?(weight|bias)", r"patch_embed.proj.\1"),
    (_LAYER + r"(norm\d\..*)", r"blocks.\1.\2"),
    (_LAYER + r"layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (_LAYER + r"attention\.(?:o_proj|output\.dense)\.(.*)", r"blocks.\1.attn.proj.\2"),
    (_LAYER + r"mlp\.gate_proj\.(.*)", r"blocks.\1.mlp.w1.\2"),
    (_LAYER + r"mlp\.weights_in\.(.*)", r"blocks.\1.mlp.w12.\2"),
    (_LAYER + r"mlp\.weights_out\.(.*)", r"blocks.\1.mlp.w3.\2"),
    (_LAYER + r"mlp\.(?:up_proj|fc1)\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    (_LAYER + r"mlp\.(?:down_proj|fc2)\.(.*)", r"blocks.\1.mlp.fc2.\2"),
    (_STAGE + r"downsample_layers\.(.*)", r"downsample_layers.\1.\2"),
    (_STAGE + r"layers\.(\d+)\.gamma", r"stages.\1.\2.gamma"),
    (_STAGE + r"layers\.(\d+)\.depthwise_conv\.(.*)", r"stages.\1.\2.dwconv.\3"),
    (_STAGE + r"layers\.(\d+)\.layer_norm\.(.*)", r"stages.\1.\2.norm.\3"),
    (_STAGE + r"layers\.(\d+)\.pointwise_conv(\d.*)", r"stages.\1.\2.pwconv\3"),
    (r"(?:layer_?)?norm\.(weight|bias)", r"norm.\1"),
)
"""(name there, official name); the rest is `_ATTENTION`'s, and the two-matrix FFN's."""
_ATTENTION = re.compile(
    _LAYER + r"attention\.(?:attention\.)?(q|k|v|query|key|value)(?:_proj)?\.(weight|bias)"
)


def is_hf(names: Mapping[str, object]) -> bool:
    """Whether these are names of a Hugging Face backbone."""
    return any(name.startswith(("embeddings.cls_token", "model.stages.")) for name in names) or (
        any(re.match(r"stages\.\d\.layers\.", name) for name in names)
    )


class HfWeights(Repacked):
    """The entries of a file under the official names, each read when it is asked for.

    Raises:
        ValueError: two entries that mean the same.
    """

    def __init__(self, file: File):
        super().__init__(file, _pack(file.shapes))


def _pack(shapes: Mapping[str, Shape]) -> dict[str, Packed]:
    found: dict[str, Packed] = {}
    attention: dict[str, dict[str, str]] = {}
    for name, shape in shapes.items():
        if match := _ATTENTION.fullmatch(name):
            key = f"blocks.{match[1]}.attn.qkv.{match[3]}"
            parts = attention.setdefault(key, {})
            if _QKV[match[2]] in parts:
                raise ValueError(f"entries {parts[_QKV[match[2]]]!r} and {name!r} are one")
            parts[_QKV[match[2]]] = name
            continue
        plain = _plain(name)
        if plain in found:
            raise ValueError(f"entries {found[plain].parts[0]!r} and {name!r} are both {plain!r}")
        found[plain] = Packed((name,), _official_shape(plain, shape))
    no_key_bias = not any("k" in parts for key, parts in attention.items() if key.endswith("bias"))
    for key, parts in attention.items():
        like = {shapes[name] for name in parts.values()}
        complete = parts.keys() == (
            {"q", "v"} if no_key_bias and key.endswith("bias") else {*"qkv"}
        )
        if complete and len(like) == 1:
            ((rows, *rest),) = like
            zeros = (rows, *rest)
            found[key] = Packed(tuple(parts.get(p, zeros) for p in "qkv"), (3 * rows, *rest))
        else:  # reported as left over, and what they would make up as missing
            found |= {name: Packed((name,), shapes[name]) for name in parts.values()}
    return _with_gates(found)


def _plain(name: str) -> str:
    for pattern, official in NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(official)
    return name  # reported as left over, by the name that it has


def _official_shape(name: str, shape: Shape) -> Shape:
    # DINOv3's mask token has an axis more.
    return shape[1:] if name == "mask_token" and len(shape) == 3 and shape[0] == 1 else shape


def _with_gates(found: dict[str, Packed]) -> dict[str, Packed]:
    """The FFN of two matrices is a gated one where there is a gate, or the first has both in it."""
    renamed: dict[str, Packed] = {}
    for name, one in found.items():
        match = re.fullmatch(r"(blocks\.\d+\.mlp\.)(fc[12])(\..*)", name)
        if match:
            first, second = (found.get(f"{match[1]}{part}.weight") for part in ("fc1", "fc2"))
            if f"{match[1]}w1.weight" in found:
                name = match[1] + {"fc1": "w2", "fc2": "w3"}[match[2]] + match[3]
            elif first and second and first.shape[:1] == tuple(2 * n for n in second.shape[1:]):
                name = match[1] + {"fc1": "w12", "fc2": "w3"}[match[2]] + match[3]
        renamed[name] = one
    return renamed
