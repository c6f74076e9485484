"""The loss of a step as a function of the student's parameters, for the whole batch at once."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from dinojax.schedules import Schedule
from dinojax.ssl.forward import (
    SslModel,
    StudentOutputs,
    TeacherOutputs,
    student_forward,
    teacher_forward,
)
from dinojax.ssl.gram import GramAnchor
from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.objective import Centering, Objective, Targets
from dinojax.ssl.state import Centers, TrainState
from dinojax.typing import Array, Float, Params

Metrics = dict[str, Float[Array, ""]]


class Schedules(NamedTuple):
    """All values that change with the step."""

    lr: Schedule
    last_layer_lr: Schedule
    weight_decay: Schedule
    momentum: Schedule
    teacher_temp: Schedule
    dino_local_loss_weight: Schedule


class Loss(NamedTuple):
    """The differentiable part of a step, as a function of the student's parameters.

    `accumulation.AccumulatedLoss` gives the same gradients in less memory.
    """

    model: SslModel
    objective: Objective
    centering: Centering
    schedules: Schedules
    gram: GramAnchor | None = None
    frozen: SslModel | None = None
    """The model of `TrainState.frozen_teacher`."""

    def __call__(
        self,
        student: Params,
        state: TrainState,
        inputs: StepInputs,
        seen: TeacherOutputs | None = None,
    ) -> tuple[Float[Array, ""], tuple[Metrics, Centers | None]]:
        """Total loss of `student` in place of the state's; terms and next centres ride along.

        `seen` are the outputs of the teacher where they are known.
        """
        theirs = self._see(state, inputs) if seen is None else seen
        temperature = self.schedules.teacher_temp(state.step)
        targets, centers = self.centering(theirs, temperature, state.centers)
        targets, centers = jax.lax.stop_gradient((targets, centers))
        patches, inputs = anchored(self, theirs.patches, state, inputs)
        ours = student_forward(self.model, student, inputs)
        total, terms = compare(self, ours, targets, patches, state, inputs)
        return total, (terms, centers)

    def _see(self, state: TrainState, inputs: StepInputs) -> TeacherOutputs:
        return teacher_forward(self.frozen or self.model, state.target_teacher, inputs)

    def examine(self, state: TrainState, inputs: StepInputs) -> tuple[Targets, Metrics]:
        """Targets and loss terms of the state's student."""
        theirs = self._see(state, inputs)
        targets, _ = self.centering(theirs, self.schedules.teacher_temp(state.step), state.centers)
        patches, inputs = anchored(self, theirs.patches, state, inputs)
        ours = student_forward(self.model, state.student, inputs)
        return targets, compare(self, ours, targets, patches, state, inputs)[1]

    def see(
        self, state: TrainState, batch: Any, make_inputs: Callable[..., StepInputs]
    ) -> TeacherOutputs:
        """What the teacher makes of a batch."""
        return self._see(state, make_inputs(batch, state.step))

    def gradients(
        self,
        state: TrainState,
        batch: Any,
        make_inputs: Callable[..., StepInputs],
        seen: TeacherOutputs | None = None,
    ) -> tuple[Params, Metrics, Centers | None]:
        """By the student's parameters; the loss terms and the next centres."""
        with jax.named_scope("views"):
            inputs = make_inputs(batch, state.step)
        grads, (terms, centers) = jax.grad(self, has_aux=True)(state.student, state, inputs, seen)
        return grads, terms, centers


@runtime_checkable
class Compared(Protocol):
    """What `compare` needs of a loss."""

    @property
    def objective(self) -> Objective: ...

    @property
    def schedules(self) -> Schedules: ...

    @property
    def gram(self) -> GramAnchor | None: ...


def anchored(
    loss: Compared,
    ema_patches: Float[Array, "G b P D"] | None,
    state: TrainState,
    inputs: StepInputs,
) -> tuple[Float[Array, "G b P D"] | None, StepInputs]:
    """Gram targets, and the inputs for the student, which waits for them.

    Nothing else orders the two passes, and the compiler may run the Gram teacher, whose crops are
    the largest, while all activations of the student are kept (1.4 GiB of 10.3 for
    ``small_vit.py:vitb16_gram``).

    Args:
        ema_patches: the targets where there is no other Gram teacher.
    """
    if loss.gram is None:
        return None, inputs
    patches = loss.gram.targets(state.gram_teacher, ema_patches, inputs)
    return jax.lax.optimization_barrier((patches, inputs))


def compare(
    loss: Compared,
    student: StudentOutputs,
    targets: Targets,
    gram_targets: Float[Array, "G b P D"] | None,
    state: TrainState,
    inputs: StepInputs,
) -> tuple[Float[Array, ""], Metrics]:
    """Total loss of a student's outputs for a batch, or for a micro-batch of it, and its terms."""
    weight = loss.schedules.dino_local_loss_weight(state.step)
    total, terms = loss.objective(student, targets, inputs, weight)
    if loss.gram is None:
        return total, terms
    given = {"teacher": gram_targets, "inputs": inputs, "step": state.step}
    return loss.gram.add_to(total, terms, student=student.patches, **given)


@runtime_checkable
class LossGradients(Protocol):
    """What a step needs of a loss: see `Loss`."""

    @property
    def schedules(self) -> Schedules: ...

    @property
    def gram(self) -> GramAnchor | None: ...

    def see(self, state: TrainState, batch: Any, make_inputs: Callable[..., StepInputs]) -> Any: ...

    def gradients(
        self,
        state: TrainState,
        batch: Any,
        make_inputs: Callable[..., StepInputs],
        seen: Any = None,
    ) -> tuple[Params, Metrics, Centers | None]: ...
