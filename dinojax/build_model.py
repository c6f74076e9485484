"""From a configuration to its models: the student's (and its EMA's), and a frozen teacher's."""

import dataclasses

from dinojax.config import BackboneConfig, Config, HeadConfig, StudentConfig
from dinojax.models.head import DinoHead
from dinojax.models.presets import get_preset
from dinojax.models.vit import VisionTransformer
from dinojax.precision import Precision, get_precision
from dinojax.ssl.forward import SslModel

MODEL_FIELDS = [
    field.name
    for field in dataclasses.fields(StudentConfig)
    if field.name in VisionTransformer.__dataclass_fields__
]
"""Keys of ``student`` that the backbone takes under the same name."""


def build_backbone(config: Config, precision: Precision) -> VisionTransformer:
    """The student's and that of its EMA."""
    return backbone_of(config.student, precision)


def backbone_of(section: BackboneConfig, precision: Precision) -> VisionTransformer:
    """The preset with the fields that the configuration overrides."""
    fields = dict(get_preset(section.arch).model)
    for name in MODEL_FIELDS:
        value = getattr(section, name, None)
        if value is not None:
            fields[name] = value
    if fields.get("pos_embed_rope_base") == 0:
        fields["pos_embed_rope_base"] = None
    return VisionTransformer(precision=precision, **fields)


def build_head(head: HeadConfig, precision: Precision) -> DinoHead:
    return DinoHead(
        head.n_prototypes,
        precision,
        hidden_dim=head.hidden_dim,
        bottleneck_dim=head.bottleneck_dim,
        layers=head.nlayers,
    )


def build_model(config: Config) -> SslModel:
    precision = get_precision(config.train.precision)
    return SslModel(
        build_backbone(config, precision),
        build_head(config.dino.head, precision),
        build_head(config.ibot.head, precision),
    )


def build_frozen_model(config: Config) -> SslModel | None:
    """The frozen teacher of distillation; None without it."""
    distillation = config.distillation
    if distillation.teacher is None:
        return None
    precision = get_precision(config.train.precision)
    return SslModel(
        backbone_of(distillation.backbone, precision),
        build_head(distillation.dino_head, precision),
        build_head(distillation.ibot_head, precision),
    )
