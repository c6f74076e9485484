"""Weights of `timm` and the official ones: only names and packing differ.

Its DINOv3 is an `Eva`, whose keys have no bias, its DINOv2 a `VisionTransformer`; neither has a
mask token. With registers, DINOv2's `cls_token` there is the sum of ours and of its position.
"""

from collections.abc import Mapping

import numpy as np

from dinojax.export.loose import Outgoing, Renamed, loosen, with_gates
from dinojax.export.name_table import NameTable, prefixed
from dinojax.export.packed import File, Kept, Packed
from dinojax.models.convnext import ConvNeXt
from dinojax.models.presets import Backbone

_TOKENS = (
    ("cls_token", "cls_token"),
    ("storage_tokens", "reg_token"),
    ("patch_embed.proj.{leaf}", "patch_embed.proj.{leaf}"),
    ("norm.{leaf}", "norm.{leaf}"),
)
_BLOCK = (
    ("norm{index}.{leaf}", "norm{index}.{leaf}"),
    ("attn.qkv.{leaf}", "attn.qkv.{leaf}"),
    ("attn.proj.{leaf}", "attn.proj.{leaf}"),
    ("mlp.fc{index}.{leaf}", "mlp.fc{index}.{leaf}"),
)
EVA = NameTable(
    *_TOKENS,
    *prefixed(
        "blocks.{layer}.",
        "blocks.{layer}.",
        (
            *_BLOCK,
            ("ls{index}.gamma", "gamma_{index}"),
            ("attn.{part}.bias", "attn.{part}_bias"),
            ("mlp.w1.{leaf}", "mlp.fc1_g.{leaf}"),
            ("mlp.w2.{leaf}", "mlp.fc1_x.{leaf}"),
            ("mlp.w3.{leaf}", "mlp.fc2.{leaf}"),
        ),
    ),
)
VIT = NameTable(
    *_TOKENS,
    ("pos_embed", "pos_embed"),
    *prefixed(
        "blocks.{layer}.",
        "blocks.{layer}.",
        (
            *_BLOCK,
            ("ls{index}.gamma", "ls{index}.gamma"),
            ("mlp.w12.{leaf}", "mlp.fc1.{leaf}"),
            ("mlp.w3.{leaf}", "mlp.fc2.{leaf}"),
        ),
    ),
)
CONVNEXT = NameTable(
    ("downsample_layers.0.{index}.{leaf}", "stem.{index}.{leaf}"),
    ("downsample_layers.{stage}.{index}.{leaf}", "stages.{stage}.downsample.{index}.{leaf}"),
    ("norm.{leaf}", "head.norm.{leaf}"),
    *prefixed(
        "stages.{stage}.{layer}.",
        "stages.{stage}.blocks.{layer}.",
        (
            ("gamma", "gamma"),
            ("dwconv.{leaf}", "conv_dw.{leaf}"),
            ("norm.{leaf}", "norm.{leaf}"),
            ("pwconv{index}.{leaf}", "mlp.fc{index}.{leaf}"),
        ),
    ),
)
OFFICIAL = {"storage_tokens", "register_tokens", "rope_embed.periods"}
"""Names that it never has."""
CLS_POSITION = "pos_embed.cls"
"""What is kept of a table whose first row is in the CLS token already."""


def is_timm(names: Mapping[str, object]) -> bool:
    """Whether these are names of a timm backbone: official ones of a ViT have a mask token."""
    if OFFICIAL & names.keys():
        return False
    if "stem.0.weight" in names or "reg_token" in names:
        return True
    return "blocks.0.norm1.weight" in names and "mask_token" not in names


def to_timm(backbone: Backbone, state: Mapping[str, np.ndarray]) -> Outgoing:
    """The official state dict of a backbone as `timm` has it."""
    table = _table_of(backbone)
    plain, kept, tensors = loosen(state, leaves=("bias",) if table is EVA else ()), {}, {}
    if table is VIT and "storage_tokens" in plain:
        position = plain["pos_embed"][:, :1]
        kept = {"cls_token": plain["cls_token"], CLS_POSITION: position}
        plain["cls_token"] = plain["cls_token"] + position
        plain["pos_embed"] = plain["pos_embed"][:, 1:]
    for name, value in plain.items():
        theirs = table.to_theirs(name)
        if name.endswith("attn.k.bias"):
            if value.any():  # masked, or `timm_model` has refused it
                kept[name] = value
        elif theirs is None:
            kept[name] = value
        else:
            tensors[theirs] = np.ascontiguousarray(value)
    return Outgoing(tensors, kept)


class TimmWeights(Renamed):
    """The entries of a file under the official names, each read when it is asked for.

    Without what `to_timm` keeps, CLS of a model with registers has the position zero.

    Raises:
        ValueError: two entries that mean the same, or what is kept is of other weights.
    """

    def __init__(self, file: File):
        table = _table_in(file.shapes)
        super().__init__(file, lambda name: table.to_official(name) or name, _adapt)
        if {CLS_POSITION, "cls_token"} <= self.kept.keys() and "cls_token" in file.shapes:
            kept = self.kept["cls_token"] + self.kept[CLS_POSITION]
            if not np.array_equal(kept, file["cls_token"]):
                raise ValueError(
                    "the header's CLS token and position are not of the tensor 'cls_token'; remove "
                    "the header's entry 'kept' of a file whose weights were changed"
                )


def _table_of(backbone: Backbone) -> NameTable:
    if isinstance(backbone, ConvNeXt):
        return CONVNEXT
    return EVA if backbone.pos_embed_grid is None else VIT


def _table_in(names: Mapping[str, object]) -> NameTable:
    if "stem.0.weight" in names:
        return CONVNEXT
    return VIT if "pos_embed" in names else EVA


def _adapt(found: dict[str, Packed], kept: Mapping[str, np.ndarray]) -> dict[str, Packed]:
    found = with_gates(found)
    known = found.pop(CLS_POSITION, None)
    table = found.get("pos_embed")
    if "storage_tokens" not in found or table is None or len(table.shape) != 3:
        return found
    parts, (first, patches, *rest), *_ = table
    row = (first, 1, *rest) if known is None else Kept(CLS_POSITION)
    found["pos_embed"] = Packed((row, *parts), (first, 1 + patches, *rest), axis=1)
    if known is not None and "cls_token" in kept:
        found["cls_token"] = Packed((Kept("cls_token"),), kept["cls_token"].shape)
    return found
