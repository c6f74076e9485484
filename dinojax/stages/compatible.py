"""Whether a run can take over the backbone that another will leave: before either has begun."""

import functools
from typing import Any

import jax

from dinojax import trees
from dinojax.build.step import build_init
from dinojax.config import Config
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.training.initial_state import CHECKPOINT_KEYS
from dinojax.typing import PyTree


def check_backbones(config: Config, key: str, left: Config, where: str) -> None:
    """Compare the shapes of backbones; heads and position tables may differ under some settings.

    Args:
        key: one of `CHECKPOINT_KEYS`, under which `config` names the other run.
        left: the configuration of that run, or of the student in it that is meant.
        where: the reference to it.

    Raises:
        ValueError: they differ; names a parameter.
    """
    assert key in CHECKPOINT_KEYS
    wanted = _shapes(_own_backbone(_state(config), key))
    if not wanted:  # Gram anchoring is switched off
        return
    found = _shapes(_own_backbone(_state(left), "init.from"))
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"{key}={where!r} leaves another backbone: its {name} is {found.get(name)}, and "
                f"{wanted.get(name)} is wanted; give both stages the same model"
            )


@functools.cache
def _state(config: Config) -> TrainState | Students:
    return jax.eval_shape(build_init(config))


def _own_backbone(state: Any, key: str) -> PyTree:
    if key == "distillation.teacher":
        return state.frozen_teacher["backbone"]
    return state.gram_teacher if key == "gram.teacher" else state.teacher["backbone"]


def _shapes(backbone: PyTree) -> dict[str, list[int]]:
    return {
        name: list(leaf.shape)
        for name, leaf in trees.flatten(backbone).items()
        if name != "embed/pos_embed"
    }
