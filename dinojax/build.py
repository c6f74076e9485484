"""From a configuration to the collaborators of a train step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.build_gram import build_gram, has_gram_teacher
from dinojax.build_model import build_backbone, build_frozen_model, build_model
from dinojax.build_recovery import build_gate, build_watch, has_recovery
from dinojax.build_schedules import build_schedule, build_schedules
from dinojax.config import Config
from dinojax.losses.chunked import chunked_dino_loss, chunked_ibot_loss
from dinojax.losses.matching import standardize
from dinojax.models.convnext import ConvNeXt
from dinojax.optim.optimizer import AdamW
from dinojax.precision import get_precision
from dinojax.prng import key_for
from dinojax.ssl.accumulation import AccumulatedLoss, moving_centers, sinkhorn_centers
from dinojax.ssl.forward import SslModel
from dinojax.ssl.gram import GramAnchor
from dinojax.ssl.inputs import DrawRates, make_draws, make_gain_draws
from dinojax.ssl.matching import FeatureLoss, FeatureObjective, MatchingModel
from dinojax.ssl.objective import Objective, sinkhorn_centering, softmax_centering
from dinojax.ssl.prepare import (
    GLOBAL_VIEWS,
    MakeDraws,
    MakeInputs,
    group_mask_counts,
    make_step_draws,
    make_step_views,
    with_draws,
)
from dinojax.ssl.recovery import closed
from dinojax.ssl.state import Centers, TrainState, init_state
from dinojax.ssl.step import Loss, LossGradients, Metrics, make_train_step
from dinojax.ssl.students import Learner, Students, make_students_step
from dinojax.students import student_configs
from dinojax.views.masks import mask_ratio_bounds
from dinojax.views.recipe import ViewRecipe, without_rgb_operations

CENTERINGS = {"sinkhorn_knopp": sinkhorn_centering, "softmax": softmax_centering}

TEACHER_NORMS = {"standardize": standardize, "none": lambda features: features}


def build_views(config: Config) -> ViewRecipe:
    """The views of a configuration of one resolution (`dinojax.resolutions`).

    Without operations on colours that the images do not have.
    """
    return config.crops if config.student.in_chans == 3 else without_rgb_operations(config.crops)


def draw_group_size(config: Config) -> int:
    """Images per group of shared draws."""
    return config.train.draw_group_size or config.train.batch_size


def build_objective(config: Config) -> Objective:
    return Objective(
        dino_loss_weight=config.dino.loss_weight,
        global_ignore_diagonal=config.dino.global_ignore_diagonal,
        ibot_loss_weight=config.ibot.loss_weight,
        koleo_loss_weight=config.dino.koleo_loss_weight,
        koleo_group_size=config.dino.koleo_group_size or draw_group_size(config),
        koleo_topk=config.dino.koleo_topk,
        watch=build_watch(config, chunked=False),
    )


def _gram(config: Config, model: SslModel) -> GramAnchor | None:
    weight = build_schedule(config.gram.loss_weight, config.train.steps)
    return build_gram(config.gram, model.backbone, weight)


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


def build_accumulated_loss(config: Config) -> AccumulatedLoss | FeatureLoss:
    """The same in less memory, in parts of the batch and of its logits."""
    model, frozen = build_model(config), build_frozen_model(config)
    if isinstance(model, MatchingModel):
        return _build_feature_loss(config, model, config.train.micro_batches)
    assert not isinstance(frozen, MatchingModel)
    chunk = config.train.prototype_chunk
    centerings = {
        "sinkhorn_knopp": partial(sinkhorn_centers, chunk=chunk),
        "softmax": moving_centers,
    }
    objective = build_objective(config)._replace(
        dino=partial(chunked_dino_loss, chunk=chunk),
        ibot=partial(chunked_ibot_loss, chunk=chunk),
        watch=build_watch(config, chunked=True),
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


def build_optimizer(config: Config) -> AdamW:
    optim = config.optim
    return AdamW(
        beta1=optim.adamw_beta1,
        beta2=optim.adamw_beta2,
        clip_grad=optim.clip_grad,
        layerwise_decay=optim.layerwise_decay,
        patch_embed_lr_mult=optim.patch_embed_lr_mult,
        moments_dtype=optim.moments_dtype,
        seed=config.train.seed,
    )


def build_draw_rates(config: Config) -> DrawRates:
    student = config.student
    return DrawRates(
        drop_path_rate=student.drop_path_rate,
        shift_coords=student.pos_embed_rope_shift_coords,
        jitter_coords=student.pos_embed_rope_jitter_coords,
        rescale_coords=student.pos_embed_rope_rescale_coords,
    )


def build_inputs(config: Config) -> MakeInputs:
    """The device-side half of the data path: crops, masks and draws of a step."""
    return with_draws(build_step_views(config), build_draws(config))


def build_draws(config: Config) -> MakeDraws:
    """Stochastic depth and RoPE augmentation of the student."""
    backbone = build_backbone(config, get_precision(config.train.precision))
    group = draw_group_size(config)
    crops = {"global": GLOBAL_VIEWS, "local": build_views(config).local_crops_number}
    sizes: dict[str, Any] = {
        "seed": config.train.seed,
        "depth": backbone.depth,
        "rows": {name: number * group for name, number in crops.items() if number},
    }
    if isinstance(backbone, ConvNeXt):
        draws = make_gain_draws(config.student.drop_path_rate, **sizes)
    else:
        draws = make_draws(build_draw_rates(config), **sizes)
    return make_step_draws(draws, config.train.batch_size // group)


def build_step_views(config: Config) -> MakeInputs:
    """Crops and masks of a step, which several students have in common."""
    return make_step_views(
        build_views(config),
        seed=config.train.seed,
        groups=config.train.batch_size // draw_group_size(config),
        side=predicted_grid(config),
        counts=build_mask_counts(config),
        ratio_bounds=build_ratio_bounds(config) if config.ibot.mask_rule == "dinov2" else None,
        circular_shift=config.ibot.mask_random_circular_shift,
        dtype=get_precision(config.train.precision).param,
        hide_masked=config.distillation.teacher is None,
        teacher_scale=config.crops.teacher_to_student_resolution_scale,
    )


def predicted_grid(config: Config) -> int:
    """Patches along a side of the global crops, which teacher and student have in common."""
    patch = build_backbone(config, get_precision(config.train.precision)).stride
    return build_views(config).global_crops_size // patch


def build_ratio_bounds(config: Config) -> np.ndarray:
    """Least and greatest share of masked patches of each global crop of one group (DINOv2)."""
    crops = GLOBAL_VIEWS * draw_group_size(config)
    return mask_ratio_bounds(
        crops, config.ibot.mask_sample_probability, config.ibot.mask_ratio_min_max
    )


def build_mask_counts(config: Config) -> np.ndarray:
    """Masked patches of each global crop of one group, or by DINOv2's rule the most of them."""
    return group_mask_counts(
        group_size=draw_group_size(config),
        num_patches=predicted_grid(config) ** 2,
        sample_probability=config.ibot.mask_sample_probability,
        ratio_min_max=config.ibot.mask_ratio_min_max,
    )


def build_step_loss(config: Config) -> LossGradients:
    """What the train step takes its gradients from."""
    whole = config.train.micro_batches == 1 and config.train.prototype_chunk is None
    return build_loss(config) if whole else build_accumulated_loss(config)


def build_train_step(config: Config) -> Callable[[Any, Any], tuple[Any, Metrics]]:
    """The train step of a configuration, not yet jitted: of a `TrainState`, or of `Students`."""
    students = student_configs(config)
    if students:
        learners = {
            name: Learner(build_step_loss(one), build_optimizer(one), build_draws(one))
            for name, one in students.items()
        }
        views = build_step_views(next(iter(students.values())))
        step = make_students_step(learners, views, config.train.micro_batches)
    else:
        step = make_train_step(
            loss=build_step_loss(config),
            optimizer=build_optimizer(config),
            make_inputs=build_inputs(config),
            gate=build_gate(config),
        )
    precision = get_precision(config.train.precision)

    def train_step(state: Any, batch: Any) -> tuple[Any, Metrics]:
        with precision.exact_products():
            return step(state, batch)

    return train_step


def build_init(config: Config) -> Callable[[], TrainState | Students]:
    """A function that makes the state before the first step, to be jitted with shardings.

    Its frozen teacher knows nothing, and neither does the Gram teacher (`dinojax.initial_state`).
    """
    students = {name: _build_init(one) for name, one in student_configs(config).items()}
    if not students:
        return _build_init(config)

    def init() -> Students:
        states = {name: init_one() for name, init_one in students.items()}
        teacher = next(iter(states.values())).target_teacher
        alone = {name: state._replace(frozen_teacher=None) for name, state in states.items()}
        return Students(jnp.zeros((), jnp.int32), alone, teacher)

    return init


def _build_init(config: Config) -> Callable[[], TrainState]:
    model, optimizer = build_model(config), build_optimizer(config)
    frozen = build_frozen_model(config)
    param = get_precision(config.train.precision).param

    def init() -> TrainState:
        key = key_for(config.train.seed, 0, "init")
        student = model.init(key, config.student.in_chans)
        centers = None
        if isinstance(model, SslModel) and config.train.centering == "softmax":
            centers = Centers(
                jnp.zeros(config.dino.head.n_prototypes, param),
                jnp.zeros(model.patch_head.prototypes, param),
            )
        state = init_state(student, optimizer.init(student), centers)
        if has_gram_teacher(config.gram):
            state = state._replace(gram_teacher=jax.tree.map(jnp.copy, student["backbone"]))
        if has_recovery(config):
            state = state._replace(recovery=closed())
        if frozen is not None:
            key = key_for(config.train.seed, 0, "frozen teacher")
            state = state._replace(frozen_teacher=frozen.init(key, config.student.in_chans))
        return state

    return init
