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
from dinojax.models.convnext import ConvNeXt
from dinojax.optim.optimizer import AdamW
from dinojax.precision import get_precision
from dinojax.prng import key_for
from dinojax.ssl.accumulation import AccumulatedLoss, moving_centers, sinkhorn_centers
from dinojax.ssl.flops import ImageFlops, image_flops
from dinojax.ssl.forward import SslModel
from dinojax.ssl.gram import GramAnchor
from dinojax.ssl.inputs import DrawRates, StepInputs, make_draws, make_gain_draws
from dinojax.ssl.objective import Objective, sinkhorn_centering, softmax_centering
from dinojax.ssl.prepare import GLOBAL_VIEWS, group_mask_counts, make_step_inputs
from dinojax.ssl.recovery import closed
from dinojax.ssl.state import Centers, TrainState, init_state
from dinojax.ssl.step import Loss, LossGradients, Metrics, make_train_step
from dinojax.ssl.students import Learner, Students, make_students_step
from dinojax.students import student_configs
from dinojax.typing import Step
from dinojax.views.masks import mask_ratio_bounds
from dinojax.views.recipe import ViewRecipe, without_rgb_operations

CENTERINGS = {"sinkhorn_knopp": sinkhorn_centering, "softmax": softmax_centering}


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


def build_loss(config: Config) -> Loss:
    """Of the whole batch with all its logits at once: the least work."""
    model = build_model(config)
    return Loss(
        model,
        build_objective(config),
        CENTERINGS[config.train.centering],
        build_schedules(config),
        _gram(config, model),
        build_frozen_model(config),
    )


def build_accumulated_loss(config: Config) -> AccumulatedLoss:
    """The same in less memory, in parts of the batch and of its logits."""
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
    model = build_model(config)
    return AccumulatedLoss(
        model,
        objective,
        centerings[config.train.centering],
        build_schedules(config),
        config.train.micro_batches,
        _gram(config, model),
        build_frozen_model(config),
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


def build_inputs(config: Config) -> Callable[[dict[str, Any], Step], StepInputs]:
    """The device-side half of the data path: crops, masks and draws of a step."""
    precision = get_precision(config.train.precision)
    backbone, views = build_backbone(config, precision), build_views(config)
    group = draw_group_size(config)
    sizes: dict[str, Any] = {
        "seed": config.train.seed,
        "depth": backbone.depth,
        "rows": {"global": GLOBAL_VIEWS * group, "local": views.local_crops_number * group},
    }
    if isinstance(backbone, ConvNeXt):
        draws = make_gain_draws(config.student.drop_path_rate, **sizes)
    else:
        draws = make_draws(build_draw_rates(config), **sizes)
    return make_step_inputs(
        views,
        seed=config.train.seed,
        groups=config.train.batch_size // group,
        side=predicted_grid(config),
        counts=build_mask_counts(config),
        ratio_bounds=build_ratio_bounds(config) if config.ibot.mask_rule == "dinov2" else None,
        circular_shift=config.ibot.mask_random_circular_shift,
        draws=draws,
        dtype=precision.param,
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
    learners = {
        name: Learner(build_step_loss(one), build_optimizer(one), build_inputs(one))
        for name, one in (student_configs(config) or {"": config}).items()
    }
    alone, gate = learners.get(""), build_gate(config)
    step = make_train_step(**alone._asdict(), gate=gate) if alone else make_students_step(learners)
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
        if config.train.centering == "softmax":
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


def build_image_flops(config: Config) -> ImageFlops:
    """Model FLOPs per image, by part; of all students together."""
    students = student_configs(config) or {"": config}
    parts = [_image_flops(one, len(students)) for one in students.values()]
    return ImageFlops(*(sum(part) for part in zip(*parts, strict=True)))


def _image_flops(config: Config, students: int) -> ImageFlops:
    views, counts = build_views(config), build_mask_counts(config)
    side, gram_side = views.global_crops_size, views.gram_teacher_crops_size
    return image_flops(
        build_model(config),
        global_px=side,
        local_px=views.local_crops_size,
        local_crops=views.local_crops_number,
        masked_patches=float(counts.sum() / draw_group_size(config)),
        channels=config.student.in_chans,
        drop_path_rate=config.student.drop_path_rate,
        gram_px=(gram_side or side) if has_gram_teacher(config.gram) else 0,
        frozen=build_frozen_model(config),
        students=students,
        teacher_px=round(side / config.crops.teacher_to_student_resolution_scale),
    )


def build_flops(config: Config) -> float:
    """Model FLOPs of one step."""
    return config.train.batch_size * build_image_flops(config).total
