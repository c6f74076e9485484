"""Weights of Hugging Face's `transformers` and the official ones: only names and packing differ.

Its modules keep query, key and value apart, leave out biases that are zero, and number stages
otherwise. Written are the names of version 4, which the hub's files have and both versions load;
those of a version 5 module are read too.
"""

import re
from collections.abc import Mapping

import numpy as np

from dinojax.export.loose import Outgoing, Renamed, loosen, with_gates
from dinojax.export.name_table import NameTable, prefixed
from dinojax.export.packed import File, Packed
from dinojax.models.convnext import ConvNeXt
from dinojax.models.presets import Backbone

_BLOCK = (
    ("norm{index}.{leaf}", "norm{index}.{leaf}"),
    ("ls{index}.gamma", "layer_scale{index}.lambda1"),
)
_TOKENS = (
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("storage_tokens", "embeddings.register_tokens"),
)
DINOV3 = NameTable(
    *_TOKENS,
    ("patch_embed.proj.{leaf}", "embeddings.patch_embeddings.{leaf}"),
    ("norm.{leaf}", "norm.{leaf}"),
    *prefixed(
        "blocks.{layer}.",
        "layer.{layer}.",
        (
            *_BLOCK,
            ("attn.{part}.{leaf}", "attention.{part}_proj.{leaf}"),
            ("attn.proj.{leaf}", "attention.o_proj.{leaf}"),
            ("mlp.fc1.{leaf}", "mlp.up_proj.{leaf}"),
            ("mlp.fc2.{leaf}", "mlp.down_proj.{leaf}"),
            # Of a gated FFN, which has `gate_proj`; read as the two above and then renamed.
            ("mlp.w1.{leaf}", "mlp.gate_proj.{leaf}"),
            ("mlp.w2.{leaf}", "mlp.up_proj.{leaf}"),
            ("mlp.w3.{leaf}", "mlp.down_proj.{leaf}"),
        ),
    ),
)
_PARTS = {"q": "query", "k": "key", "v": "value"}
DINOV2 = NameTable(
    *_TOKENS,
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.{leaf}", "embeddings.patch_embeddings.projection.{leaf}"),
    ("norm.{leaf}", "layernorm.{leaf}"),
    *prefixed(
        "blocks.{layer}.",
        "encoder.layer.{layer}.",
        (
            *_BLOCK,
            *(
                (f"attn.{part}.{{leaf}}", f"attention.attention.{long}.{{leaf}}")
                for part, long in _PARTS.items()
            ),
            ("attn.proj.{leaf}", "attention.output.dense.{leaf}", "attention.o_proj.{leaf}"),
            ("mlp.fc{index}.{leaf}", "mlp.fc{index}.{leaf}"),
            ("mlp.w12.{leaf}", "mlp.weights_in.{leaf}"),
            ("mlp.w3.{leaf}", "mlp.weights_out.{leaf}", "mlp.down_proj.{leaf}"),
            # Of a version 5 module.
            ("attn.{part}.{leaf}", "attention.{part}_proj.{leaf}"),
            ("mlp.w1.{leaf}", "mlp.gate_proj.{leaf}"),
            ("mlp.w2.{leaf}", "mlp.up_proj.{leaf}"),
        ),
    ),
)
CONVNEXT = NameTable(
    ("downsample_layers.{stage}.{index}.{leaf}", "stages.{stage}.downsample_layers.{index}.{leaf}"),
    ("norm.{leaf}", "layer_norm.{leaf}"),
    *prefixed(
        "stages.{stage}.{layer}.",
        "stages.{stage}.layers.{layer}.",
        (
            ("gamma", "gamma"),
            ("dwconv.{leaf}", "depthwise_conv.{leaf}"),
            ("norm.{leaf}", "layer_norm.{leaf}"),
            ("pwconv{index}.{leaf}", "pointwise_conv{index}.{leaf}"),
        ),
    ),
)


def is_hf(names: Mapping[str, object]) -> bool:
    """Whether these are names of a Hugging Face backbone."""
    pattern = r"embeddings\.cls_token|(model\.)?stages\.\d\.(layers|downsample_layers)\..*"
    return any(re.fullmatch(pattern, name) for name in names)


def to_hf(backbone: Backbone, state: Mapping[str, np.ndarray]) -> Outgoing:
    """The official state dict of a backbone as `transformers` has it.

    Keys have a bias there only where `key_bias` says so: one that is masked has no effect.
    """
    table, kept, tensors = _table_of(backbone), {}, {}
    for name, value in loosen(state).items():
        theirs = table.to_theirs(name)
        if name.endswith("attn.k.bias") and not key_bias(backbone):
            if value.any():
                kept[name] = value
        elif theirs is None:
            kept[name] = value
        else:
            is_wide = name == "mask_token" and table is DINOV3  # theirs has an axis more
            tensors[theirs] = np.ascontiguousarray(value[None] if is_wide else value)
    return Outgoing(tensors, kept)


def key_bias(backbone: Backbone) -> bool:
    """Whether the keys have a bias that is not masked."""
    return not isinstance(backbone, ConvNeXt) and backbone.qkv_bias and not backbone.mask_k_bias


class HfWeights(Renamed):
    """The entries of a file under the official names, each read when it is asked for.

    Raises:
        ValueError: two entries that mean the same.
    """

    def __init__(self, file: File):
        table = _table_in(file.shapes)

        def rename(name: str) -> str:
            plain = re.sub(r"^model\.(?=layer\.|stages\.)", "", name)
            return table.to_official(plain) or name

        super().__init__(file, rename, _adapt)


def _table_of(backbone: Backbone) -> NameTable:
    if isinstance(backbone, ConvNeXt):
        return CONVNEXT
    return DINOV3 if backbone.pos_embed_grid is None else DINOV2


def _table_in(names: Mapping[str, object]) -> NameTable:
    if any(name.startswith("encoder.") for name in names):
        return DINOV2
    return DINOV3 if "embeddings.cls_token" in names else CONVNEXT


def _adapt(found: dict[str, Packed], kept: Mapping[str, np.ndarray]) -> dict[str, Packed]:
    found = with_gates(found)
    if "mask_token" in found and found["mask_token"].shape[:-1] == (1, 1):
        one = found["mask_token"]
        found["mask_token"] = one._replace(shape=one.shape[1:])
    return found
