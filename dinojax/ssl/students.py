"""Several students of one frozen teacher in one step (DINOv3, section 5.2).

The teacher looks at a batch once, the dearest part of distilling small students. Each of them then
takes a step of its own with its own optimizer, schedules and draws, on the same crops. All lie on
the whole mesh, so nothing but weights and sums travels; the reference gives each student devices of
its own and sends crops and bottlenecks between them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dinojax.optim.optimizer import AdamW
from dinojax.ssl.loss import LossGradients, Metrics
from dinojax.ssl.micro_batch import WHOLE_BATCH, MicroBatch
from dinojax.ssl.prepare import MakeDraws, MakeInputs, with_draws
from dinojax.ssl.state import TrainState
from dinojax.ssl.step import learn
from dinojax.typing import Array, Int, Params, Step


class Students(NamedTuple):
    """The state of such a run."""

    step: Int[Array, ""]
    students: dict[str, TrainState]
    """Without a frozen teacher of their own."""
    frozen_teacher: Params

    @property
    def student(self) -> dict[str, Params]:
        return {name: one.student for name, one in self.students.items()}

    @property
    def refused_steps(self) -> Int[Array, ""]:
        """Of all students together."""
        return sum((one.refused_steps for one in self.students.values()), jnp.int32(0))

    def one(self, name: str) -> TrainState:
        """A student at this step, with the teacher."""
        return self.students[name]._replace(step=self.step, frozen_teacher=self.frozen_teacher)


class Learner(NamedTuple):
    """What trains one student."""

    loss: LossGradients
    optimizer: AdamW
    make_draws: MakeDraws
    """Its own stochastic depth and RoPE augmentation."""


def make_students_step(
    learners: Mapping[str, Learner], make_views: MakeInputs, micro_batches: int = 1
) -> Callable[[Students, Any], tuple[Students, Metrics]]:
    """``(state, batch) -> (state, metrics)``; metrics are ``NAME/metric``.

    Without a name are the mean of all ``total_loss``, ``finite`` (of all), ``refused_steps`` (the
    sum) and ``refused_in_a_row`` (the most). A student whose step is refused stays as it is, the
    others go on. They are trained in turn: what one keeps for its backward pass is gone when the
    next begins.

    Args:
        make_views: crops and masks, which are made once and shared.
        micro_batches: those of every learner's loss.
    """

    def train_step(state: Students, batch: Any) -> tuple[Students, Metrics]:
        views = _made_once(make_views, batch, state.step, micro_batches)
        first, (loss, *_) = next(iter(learners.items()))
        seen = jax.lax.stop_gradient(loss.see(state.one(first), batch, views))
        students, metrics = {}, {}
        for name, (loss, optimizer, make_draws) in learners.items():
            one = state.one(name)
            if students:  # else the compiler may do all forward passes first
                before = students[next(reversed(students))].student
                params, _ = jax.lax.optimization_barrier((one.student, before))
                one = one._replace(student=params)
            found = loss.gradients(one, batch, with_draws(views, make_draws), seen)
            updated, metrics[name] = learn(loss, optimizer, one, *found)
            students[name] = updated._replace(frozen_teacher=None)
        summary = {
            name: reduce(jnp.stack([values[name] for values in metrics.values()]))
            for name, reduce in SUMMARY.items()
        }
        named = {
            f"{one}/{name}": x for one, values in metrics.items() for name, x in values.items()
        }
        return Students(state.step + 1, students, state.frozen_teacher), {**summary, **named}

    return train_step


def _made_once(make_views: MakeInputs, batch: Any, step: Step, micro_batches: int) -> MakeInputs:
    """The views of all micro-batches, which stay in memory until the last student has seen them.

    A student alone makes those of a micro-batch again for each pass; with k students it would be k
    times, for a step that is small by intention.
    """
    with jax.named_scope("views"):
        if micro_batches == 1:
            views = make_views(batch, step)
            return lambda batch, step, part=WHOLE_BATCH: views
        every = jax.lax.map(
            lambda index: make_views(batch, step, MicroBatch(index, micro_batches)),
            jnp.arange(micro_batches),
        )
    return lambda batch, step, part: jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, part.index, keepdims=False), every
    )


SUMMARY = {
    "total_loss": jnp.mean,
    "finite": jnp.all,
    "refused_steps": jnp.sum,
    "refused_in_a_row": jnp.max,
}
