"""The state that a run begins with: random weights, or what an earlier run has left."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from dinojax.build import build_init
from dinojax.build_gram import has_gram_teacher
from dinojax.config import Config
from dinojax.runtime.checkpoint import DIRECTORY
from dinojax.runtime.stored_state import read_state
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.typing import Params, PyTree

FROZEN = ("gram_teacher", "frozen_teacher")
"""Parts of a state that come from checkpoints of their own."""
RANDOM = "random"
"""As distillation.teacher: a teacher that has learnt nothing, for trying a recipe out."""


def make_initial_state(
    config: Config, abstract_state: TrainState | Students
) -> TrainState | Students:
    """Before the first step of `config`, on the shardings of `abstract_state`.

    Raises:
        FileNotFoundError: no checkpoint where one is named.
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
        state = _continued(config, state, abstract_state)
    if not has_gram_teacher(config.gram):
        return state
    if config.gram.teacher is None:
        return state._replace(gram_teacher=_copy(state.teacher["backbone"]))
    path = find_checkpoint(config.gram.teacher, "gram.teacher")
    logging.info("the Gram teacher is the EMA teacher of %s", path)
    wanted = {"backbone": abstract_state.gram_teacher}
    return state._replace(gram_teacher=_read_teacher(path, wanted)["backbone"])


def find_checkpoint(given: str, key: str) -> str:
    """One checkpoint: `given` itself, or the newest of the workdir `given`.

    Raises:
        FileNotFoundError: there is none.
    """
    if Path(given).name.isdigit():
        return given
    folder = Path(given) / DIRECTORY
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if not steps:
        raise FileNotFoundError(
            f"{key}={given!r} has no checkpoint in {folder}; give the workdir of a run, or one of "
            f"its checkpoints, as in runs/x/{DIRECTORY}/400 (in a bucket always that)"
        )
    return os.fspath(folder / str(max(steps)))


def _continued(config: Config, state: TrainState, abstract_state: TrainState) -> TrainState:
    assert config.init.from_ is not None
    path = find_checkpoint(config.init.from_, "init.from")
    if not config.init.resume:
        logging.info("student and EMA teacher are the EMA teacher of %s", path)
        teacher = _read_teacher(path, abstract_state.teacher)
        return state._replace(student=_copy(teacher), teacher=teacher)
    step = int(Path(path).name)
    if step >= config.train.steps:
        raise ValueError(
            f"init.from={config.init.from_!r} is at step {step}, and train.steps="
            f"{config.train.steps} counts from its start; use more, or init.resume=False"
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
