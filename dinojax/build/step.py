"""From a configuration to its train step and to the state that it starts from."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dinojax.build.gram import has_gram_teacher
from dinojax.build.inputs import build_draws, build_inputs, build_step_views
from dinojax.build.loss import build_step_loss
from dinojax.build.model import build_frozen_model, build_model
from dinojax.build.recovery import build_gate, has_recovery
from dinojax.config import Config
from dinojax.config.students import student_configs
from dinojax.optim.optimizer import AdamW
from dinojax.precision import get_precision
from dinojax.prng import key_for
from dinojax.ssl.forward import SslModel
from dinojax.ssl.loss import Metrics
from dinojax.ssl.recovery import closed
from dinojax.ssl.state import Centers, TrainState, init_state
from dinojax.ssl.step import make_train_step
from dinojax.ssl.students import Learner, Students, make_students_step


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

    Its frozen teacher knows nothing, and neither does the Gram teacher
    (`dinojax.training.initial_state`).
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
