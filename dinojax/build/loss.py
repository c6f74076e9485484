"""From a configuration to the loss of a step, whole or in parts."""

from functools import partial

from dinojax.build.gram import build_gram
from dinojax.build.inputs import draw_group_size
from dinojax.build.model import build_frozen_model, build_model
from dinojax.build.recovery import build_watch
from dinojax.build.schedules import build_schedule, build_schedules
from dinojax.config import Config
from dinojax.kernels.on_device import platform
from dinojax.losses.chunked import chunked_dino_loss, chunked_ibot_loss
from dinojax.losses.fused import fused_dino_loss, fused_ibot_loss
from dinojax.losses.matching import standardize
from dinojax.ssl.accumulation import (
    AccumulatedLoss,
    fused_sinkhorn_centers,
    moving_centers,
    sinkhorn_centers,
)
from dinojax.ssl.forward import SslModel
from dinojax.ssl.gram import GramAnchor
from dinojax.ssl.loss import Loss, LossGradients
from dinojax.ssl.matching import FeatureLoss, FeatureObjective, MatchingModel
from dinojax.ssl.objective import Objective, sinkhorn_centering, softmax_centering

CENTERINGS = {"sinkhorn_knopp": sinkhorn_centering, "softmax": softmax_centering}

TEACHER_NORMS = {"standardize": standardize, "none": lambda features: features}


def build_step_loss(config: Config) -> LossGradients:
    """What the train step takes its gradients from."""
    whole = config.train.micro_batches == 1 and config.train.prototype_chunk is None
    return build_loss(config) if whole and not fused() else build_accumulated_loss(config)


def fused() -> bool:
    """Whether kernels make logits tile by tile: on TPUs, whatever `train.prototype_chunk` says."""
    return platform() == "tpu"


def build_loss(config: Config) -> Loss | FeatureLoss:
    """Of the whole batch, with all its logits at once where there are some: the least work."""
    model, frozen = build_model(config), build_frozen_model(config)
    if isinstance(model, MatchingModel):
        return _build_feature_loss(config, model)
    assert not isinstance(frozen, MatchingModel)
    return Loss(
        model,
        build_objective(config),
        CENTERINGS[config.train.centering],
        build_schedules(config),
        _gram(config, model),
        frozen,
    )


def build_accumulated_loss(config: Config) -> AccumulatedLoss | FeatureLoss:
    """The same in less memory, in parts of the batch and without all of its logits."""
    model, frozen = build_model(config), build_frozen_model(config)
    if isinstance(model, MatchingModel):
        return _build_feature_loss(config, model, config.train.micro_batches)
    assert not isinstance(frozen, MatchingModel)
    chunk = config.train.prototype_chunk
    sinkhorn = fused_sinkhorn_centers if fused() else partial(sinkhorn_centers, chunk=chunk)
    centerings = {"sinkhorn_knopp": sinkhorn, "softmax": moving_centers}
    objective = build_objective(config)._replace(
        dino=fused_dino_loss if fused() else partial(chunked_dino_loss, chunk=chunk),
        ibot=fused_ibot_loss if fused() else partial(chunked_ibot_loss, chunk=chunk),
    )
    return AccumulatedLoss(
        model,
        objective,
        centerings[config.train.centering],
        build_schedules(config),
        config.train.micro_batches,
        _gram(config, model),
        frozen,
    )


def _build_feature_loss(config: Config, model: MatchingModel, parts: int = 1) -> FeatureLoss:
    frozen, matching = build_frozen_model(config), config.distillation.matching
    assert isinstance(frozen, MatchingModel)
    return FeatureLoss(
        model,
        frozen,
        FeatureObjective(
            cls_cosine_weight=matching.cls_cosine_weight,
            cls_smooth_l1_weight=matching.cls_smooth_l1_weight,
            patch_cosine_weight=matching.patch_cosine_weight,
            patch_smooth_l1_weight=matching.patch_smooth_l1_weight,
            smooth_l1_beta=matching.smooth_l1_beta,
        ),
        build_schedules(config),
        TEACHER_NORMS[matching.teacher_norm],
        parts,
    )


def build_objective(config: Config) -> Objective:
    return Objective(
        dino_loss_weight=config.dino.loss_weight,
        global_ignore_diagonal=config.dino.global_ignore_diagonal,
        ibot_loss_weight=config.ibot.loss_weight,
        koleo_loss_weight=config.dino.koleo_loss_weight,
        koleo_group_size=config.dino.koleo_group_size or draw_group_size(config),
        koleo_topk=config.dino.koleo_topk,
        watch=build_watch(config),
    )


def _gram(config: Config, model: SslModel) -> GramAnchor | None:
    weight = build_schedule("gram.loss_weight", config.gram.loss_weight, config.train.steps)
    return build_gram(config.gram, model.backbone, weight)
