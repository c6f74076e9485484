"""The frozen teacher of distillation: a constant of the run.

It is read from its source at every start and is in no checkpoint of the run: that of a 7B teacher
is 27 GB. The workdir's contract holds its digest instead.
"""

import hashlib

import jax
from absl import logging

from dinojax import trees
from dinojax.build.step import build_init
from dinojax.config import Config
from dinojax.runtime.earlier import find_earlier
from dinojax.runtime.stored_state import read_digests
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students

KEY = "distillation.teacher"
RANDOM = "random"
"""As distillation.teacher: a teacher that has learnt nothing, for trying a recipe out."""
State = TrainState | Students


def without_teacher(state: State) -> State:
    """What a checkpoint holds."""
    return state._replace(frozen_teacher=None)


def with_teacher(state: State, config: Config, abstract_state: State) -> State:
    """`state` with the frozen teacher, if there is one, on the shardings of `abstract_state`.

    Raises:
        FileNotFoundError: no checkpoint where distillation.teacher names one.
        ValueError: it holds another model.
        dinojax.runtime.errors.CheckpointError: it is damaged.
    """
    wanted, given = abstract_state.frozen_teacher, config.distillation.teacher
    if wanted is None or given is None:
        return state
    if given == RANDOM:
        layout = jax.tree.map(lambda leaf: leaf.sharding, wanted)
        init = build_init(config)
        return state._replace(
            frozen_teacher=jax.jit(lambda: init().frozen_teacher, out_shardings=layout)()
        )
    earlier = find_earlier(given, KEY)
    logging.info("the frozen teacher is the EMA teacher of %s", earlier.path)
    return state._replace(frozen_teacher=earlier.read_teacher(wanted))


def teacher_digest(config: Config) -> dict[str, str]:
    """16 hex digits of the frozen teacher's weights by the key that names it; else nothing.

    From the digests that its checkpoint carries; `with_teacher` holds the weights to them.

    Raises:
        FileNotFoundError: no checkpoint where distillation.teacher names one.
        ValueError: it does not say which student.
        dinojax.runtime.errors.CheckpointError: it is damaged.
    """
    given = config.distillation.teacher
    if given is None or given == RANDOM:
        return {}
    earlier = find_earlier(given, KEY)
    known = read_digests(earlier.path)
    wanted = jax.eval_shape(build_init(config)).frozen_teacher
    names = trees.flatten({"teacher": wanted})
    lines = [f"{name} {known.get(earlier.prefix + name)}" for name in names]
    return {KEY: hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()}
