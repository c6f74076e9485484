"""The state that a run begins with: random weights, or what an earlier run has left."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from dinojax.build import build_init
from dinojax.build_gram import has_gram_teacher
from dinojax.build_recovery import has_recovery
from dinojax.config import Config, InitConfig
from dinojax.runtime.stored_state import read_state
from dinojax.seed_heads import FirstBatches, seed_heads
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.starting_weights import find_checkpoint, has_heads, is_released, read_released
from dinojax.typing import Params, PyTree

FROZEN = ("gram_teacher", "frozen_teacher")
"""Parts of a state that come from checkpoints of their own."""
RANDOM = "random"
"""As distillation.teacher: a teacher that has learnt nothing, for trying a recipe out."""


def make_initial_state(
    config: Config, abstract_state: TrainState | Students, first_batches: FirstBatches
) -> TrainState | Students:
    """Before the first step of `config`, on the shardings of `abstract_state`.

    Args:
        first_batches: what new heads are seeded from, if there are any.

    Raises:
        FileNotFoundError: no checkpoint or file where one is named.
        ValueError: it holds another model.
        dinojax.runtime.errors.CheckpointError: it is damaged.
    """
    layout = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    state = jax.jit(build_init(config), out_shardings=layout)()
    given = config.distillation.teacher
    if given not in (None, RANDOM):
        path = find_checkpoint(given, "distillation.teacher")
        logging.info("the frozen teacher is the EMA teacher of %s", path)
        teacher = _read_teacher(path, abstract_state.frozen_teacher)
        state = state._replace(frozen_teacher=teacher)
    if isinstance(state, Students):
        return state
    assert isinstance(abstract_state, TrainState)
    if config.init.from_ is not None:
        state = _continued(config, state, abstract_state, first_batches)
    if not has_gram_teacher(config.gram):
        return state
    if config.gram.teacher is None:
        return state._replace(gram_teacher=_copy(state.teacher["backbone"]))
    path = find_checkpoint(config.gram.teacher, "gram.teacher")
    logging.info("the Gram teacher is the EMA teacher of %s", path)
    wanted = {"backbone": abstract_state.gram_teacher}
    return state._replace(gram_teacher=_read_teacher(path, wanted)["backbone"])


def first_step(config: InitConfig) -> int:
    """The step of `make_initial_state`."""
    if config.from_ is None or not config.resume:
        return 0
    return int(Path(find_checkpoint(config.from_, "init.from")).name)


def _continued(
    config: Config, state: TrainState, abstract_state: TrainState, first_batches: FirstBatches
) -> TrainState:
    given, wanted = config.init.from_, abstract_state.teacher
    assert given is not None
    if config.init.resume:
        return _resumed(config, given, state, abstract_state)
    if is_released(given):
        path, backbone = given, read_released(given, config, wanted["backbone"])
    else:
        path = find_checkpoint(given, "init.from")
        if not has_recovery(config) and has_heads(path):
            logging.info("student and EMA teacher are the EMA teacher of %s", path)
            teacher = _read_teacher(path, wanted)
            return state._replace(student=_copy(teacher), teacher=teacher)
        backbone = _read_teacher(path, {"backbone": wanted["backbone"]})["backbone"]
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


def _resumed(
    config: Config, given: str, state: TrainState, abstract_state: TrainState
) -> TrainState:
    path, step = find_checkpoint(given, "init.from"), first_step(config.init)
    if step >= config.train.steps:
        raise ValueError(
            f"init.from={given!r} is at step {step}, and train.steps={config.train.steps} counts "
            "from its start; use more, or init.resume=False"
        )
    logging.info("the run goes on where %s is", path)
    wanted = {
        name: part
        for name, part in abstract_state._asdict().items()
        if part is not None and name not in FROZEN
    }
    return state._replace(**read_state(path, wanted, part=True))


def _read_teacher(path: str, wanted: PyTree) -> Params:
    return read_state(path, {"teacher": wanted}, part=True)["teacher"]


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)
