"""The state that a run begins with: random weights, or what an earlier run has left."""

from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from dinojax.build import build_init
from dinojax.build_gram import has_gram_teacher
from dinojax.build_model import build_model
from dinojax.config import Config
from dinojax.earlier import find_earlier
from dinojax.frozen_teacher import with_teacher, without_teacher
from dinojax.position_tables import read_teacher
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students

CHECKPOINT_KEYS = ("init.from", "gram.teacher", "distillation.teacher")
"""Keys that may name a workdir or a checkpoint of an earlier run."""
FROZEN = ("gram_teacher", "frozen_teacher")
"""Parts of a state that come from checkpoints of their own."""


def make_initial_state(
    config: Config, abstract_state: TrainState | Students
) -> TrainState | Students:
    """Before the first step of `config`, on the shardings of `abstract_state`.

    Raises:
        FileNotFoundError: no checkpoint where one is named.
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
        state = _continued(config, state, abstract_state)
    if not has_gram_teacher(config.gram):
        return state
    if config.gram.teacher is None:
        return state._replace(gram_teacher=_copy(state.teacher["backbone"]))
    earlier = find_earlier(config.gram.teacher, "gram.teacher")
    logging.info("the Gram teacher is the EMA teacher of %s", earlier.path)
    wanted = {"backbone": abstract_state.gram_teacher}
    teacher = read_teacher(earlier, wanted, build_model(config).backbone)
    return state._replace(gram_teacher=teacher["backbone"])


def _continued(config: Config, state: TrainState, abstract_state: TrainState) -> TrainState:
    assert config.init.from_ is not None
    earlier = find_earlier(config.init.from_, "init.from")
    if not config.init.resume:
        logging.info("student and EMA teacher are the EMA teacher of %s", earlier.path)
        teacher = read_teacher(earlier, abstract_state.teacher, build_model(config).backbone)
        return state._replace(student=_copy(teacher), teacher=teacher)
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
