"""From a configuration to its models: the student's (and its EMA's), and a frozen teacher's."""

from dinojax.config import Config
from dinojax.config.backbone import BackboneConfig
from dinojax.config.method import HeadConfig
from dinojax.models.head import DinoHead
from dinojax.models.presets import FIELDS, Backbone, configured
from dinojax.models.projection import Projection
from dinojax.precision import Precision, get_precision
from dinojax.ssl.forward import SslModel
from dinojax.ssl.matching import MatchingModel

FEATURES = "features"
"""As distillation.objective: no prototypes."""


def build_backbone(config: Config, precision: Precision) -> Backbone:
    """The student's and that of its EMA."""
    return backbone_of(config.student, precision)


def backbone_of(section: BackboneConfig, precision: Precision) -> Backbone:
    """The preset with the fields that the configuration overrides.

    Raises:
        ValueError: an override of what this kind of backbone does not have.
    """
    own = {name: getattr(section, name) for name in FIELDS if hasattr(section, name)}
    return configured({"arch": section.arch, **own}, precision)


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
