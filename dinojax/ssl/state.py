"""The state of a run: everything a checkpoint holds and a step changes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dinojax.ssl.recovery import Recovery
from dinojax.typing import Array, Float, Int, Params


class Centers(NamedTuple):
    """Moving averages of teacher logits, for softmax centering only."""

    dino: Float[Array, " K"]
    ibot: Float[Array, " J"]


class TrainState(NamedTuple):
    """A pytree; `step` counts batches consumed, so schedules and data are functions of it."""

    step: Int[Array, ""]
    student: Params
    """``backbone``, ``dino_head`` and, unless heads are tied, ``ibot_head``."""
    teacher: Params
    """Exponential moving average of the student, same structure."""
    moments: optax.ScaleByAdamState
    centers: Centers | None
    refused_steps: Int[Array, ""]
    """How many steps had a non-finite loss or gradient and changed nothing."""
    refused_in_a_row: Int[Array, ""]
    """How many of them were the last ones."""
    gram_teacher: Params | None = None
    """A backbone whose patch similarities the student keeps; None: no stage of that kind, or the
    teacher itself."""
    frozen_teacher: Params | None = None
    """Of distillation: as `student`, of another model, and never changed. It gives the targets."""
    recovery: Recovery | None = None
    """How far new heads are; None: the run has no such phase."""

    @property
    def target_teacher(self) -> Params:
        """Whose outputs the student predicts."""
        return self.teacher if self.frozen_teacher is None else self.frozen_teacher


def init_state(student: Params, moments: optax.ScaleByAdamState, centers: Centers | None):
    """State before the first step; the teacher starts as a copy of the student."""
    zero = jnp.zeros((), jnp.int32)
    teacher = jax.tree.map(jnp.copy, student)
    return TrainState(zero, student, teacher, moments, centers, zero, zero)
