"""From a configuration to its models: the student's (and its EMA's), and a frozen teacher's."""

import dataclasses

from dinojax.config import Config
from dinojax.config_backbone import BackboneConfig, StudentConfig
from dinojax.config_method import HeadConfig
from dinojax.models.convnext import ConvNeXt
from dinojax.models.head import DinoHead
from dinojax.models.presets import Backbone, get_preset
from dinojax.models.projection import Projection
from dinojax.models.vit import VisionTransformer
from dinojax.precision import Precision, get_precision
from dinojax.ssl.forward import SslModel
from dinojax.ssl.matching import MatchingModel

FEATURES = "features"
"""As distillation.objective: no prototypes."""

MODEL_FIELDS = [
    field.name
    for field in dataclasses.fields(StudentConfig)
    if any(field.name in kind.__dataclass_fields__ for kind in (VisionTransformer, ConvNeXt))
]
"""Keys of ``student`` that a backbone takes under the same name."""


def build_backbone(config: Config, precision: Precision) -> Backbone:
    """The student's and that of its EMA."""
    return backbone_of(config.student, precision)


def backbone_of(section: BackboneConfig, precision: Precision) -> Backbone:
    """The preset with the fields that the configuration overrides.

    Raises:
        ValueError: an override of what this kind of backbone does not have.
    """
    fields = {name: getattr(section, name, None) for name in MODEL_FIELDS}
    changes = {name: value for name, value in fields.items() if value is not None}
    if changes.get("pos_embed_rope_base") == 0:
        changes["pos_embed_rope_base"] = None
    return get_preset(section.arch).build(precision, **changes)


def build_head(head: HeadConfig, precision: Precision) -> DinoHead:
    return DinoHead(
        head.n_prototypes,
        precision,
        hidden_dim=head.hidden_dim,
        bottleneck_dim=head.bottleneck_dim,
        layers=head.nlayers,
        weight_norm=head.weight_norm,
    )


def build_model(config: Config) -> SslModel | MatchingModel:
    """The student, and its EMA."""
    precision = get_precision(config.train.precision)
    if config.distillation.objective == FEATURES:
        return _build_matching_model(config, precision)
    return SslModel(
        build_backbone(config, precision),
        build_head(config.dino.head, precision),
        build_head(config.ibot.head, precision) if config.ibot.separate_head else None,
    )


def _build_matching_model(config: Config, precision: Precision) -> MatchingModel:
    width = backbone_of(config.distillation.backbone, precision).embed_dim
    hidden_dim = config.distillation.matching.projection_hidden_dim
    projection = Projection(width, precision, hidden_dim)
    return MatchingModel(build_backbone(config, precision), projection, projection.clone())


def build_frozen_model(config: Config) -> SslModel | MatchingModel | None:
    """The frozen teacher of distillation; None without it."""
    distillation = config.distillation
    if distillation.teacher is None:
        return None
    precision = get_precision(config.train.precision)
    backbone = backbone_of(distillation.backbone, precision)
    if distillation.objective == FEATURES:
        return MatchingModel(backbone)
    return SslModel(
        backbone,
        build_head(distillation.dino_head, precision),
        build_head(distillation.ibot_head, precision),
    )
