"""The state that a run begins with: random weights, or what an earlier run has left."""

from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from dinojax.build.gram import has_gram_teacher
from dinojax.build.model import build_model
from dinojax.build.recovery import has_recovery
from dinojax.build.step import build_init
from dinojax.config import Config
from dinojax.export.weights import is_weights
from dinojax.runtime.earlier import find_earlier
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.training.frozen_teacher import with_teacher, without_teacher
from dinojax.training.position_tables import read_teacher
from dinojax.training.seed_heads import FirstBatches, seed_heads
from dinojax.training.starting_weights import has_heads, read_released

CHECKPOINT_KEYS = ("init.from", "gram.teacher", "distillation.teacher")
"""Keys that may name a workdir or a checkpoint of an earlier run."""
FROZEN = ("gram_teacher", "frozen_teacher")
"""Parts of a state that come from checkpoints of their own."""


def make_initial_state(
    config: Config, abstract_state: TrainState | Students, first_batches: FirstBatches
) -> TrainState | Students:
    """Before the first step of `config`, on the shardings of `abstract_state`.

    Args:
        first_batches: what new heads are seeded from, if there are any.

    Raises:
        FileNotFoundError: no checkpoint or file where one is named.
        ValueError: it holds another model, or several students and does not say which.
        dinojax.runtime.errors.CheckpointError: it is damaged.
    """
    layout = jax.tree.map(lambda leaf: leaf.sharding, without_teacher(abstract_state))
    init = build_init(config)
    state = jax.jit(lambda: without_teacher(init()), out_shardings=layout)()
    state = with_teacher(state, config, abstract_state)
    if isinstance(state, Students):
        return state
    assert isinstance(abstract_state, TrainState)
    if config.init.from_ is not None:
        state = _continued(config, state, abstract_state, first_batches)
    if not has_gram_teacher(config.gram):
        return state
    if config.gram.teacher is None:
        return state._replace(gram_teacher=_copy(state.teacher["backbone"]))
    earlier = find_earlier(config.gram.teacher, "gram.teacher")
    logging.info("the Gram teacher is the EMA teacher of %s", earlier.path)
    wanted = {"backbone": abstract_state.gram_teacher}
    teacher = read_teacher(earlier, wanted, build_model(config).backbone)
    return state._replace(gram_teacher=teacher["backbone"])


def _continued(
    config: Config, state: TrainState, abstract_state: TrainState, first_batches: FirstBatches
) -> TrainState:
    given, wanted = config.init.from_, abstract_state.teacher
    assert given is not None
    if config.init.resume:
        return _resumed(config, state, abstract_state)
    if is_weights(given):
        path, backbone = given, read_released(given, config, wanted["backbone"])
    else:
        earlier, model = find_earlier(given, "init.from"), build_model(config)
        path = earlier.path
        if not has_recovery(config) and has_heads(earlier):
            logging.info("student and EMA teacher are the EMA teacher of %s", path)
            teacher = read_teacher(earlier, wanted, model.backbone)
            return state._replace(student=_copy(teacher), teacher=teacher)
        alone = {"backbone": wanted["backbone"]}
        backbone = read_teacher(earlier, alone, model.backbone)["backbone"]
    logging.info("student and EMA teacher begin with the backbone of %s and new heads", path)
    state = state._replace(
        student={**state.student, "backbone": _copy(backbone)},
        teacher={**state.teacher, "backbone": backbone},
    )
    if not has_recovery(config):
        logging.warning(
            "%s has no heads, and what a backbone learns from new ones overwrites what it knew; "
            "recovery.max_steps trains them first (docs/recovery.md)",
            path,
        )
        return state
    return seed_heads(config, state, first_batches) if config.recovery.seed_batches else state


def _resumed(config: Config, state: TrainState, abstract_state: TrainState) -> TrainState:
    assert config.init.from_ is not None
    earlier = find_earlier(config.init.from_, "init.from")
    if earlier.step >= config.train.steps:
        raise ValueError(
            f"init.from={config.init.from_!r} is at step {earlier.step}, and train.steps="
            f"{config.train.steps} counts from its start; use more, or init.resume=False"
        )
    logging.info("the run goes on where %s is", earlier.path)
    wanted = {
        name: part
        for name, part in abstract_state._asdict().items()
        if part is not None and name not in FROZEN
    }
    return state._replace(**earlier.read(wanted))


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)
