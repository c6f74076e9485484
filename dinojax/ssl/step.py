"""One training step as a pure function ``(state, batch) -> (state, metrics)``."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from dinojax import trees
from dinojax.optim.optimizer import AdamW, Rates, clip_by_submodule, ema
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
from dinojax.ssl.recovery import Gate
from dinojax.ssl.state import Centers, TrainState
from dinojax.typing import Array, Bool, Float, Params

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
        ours = student_forward(self.model, student, inputs)
        total, terms = compare(self, ours, targets, theirs.patches, state, inputs)
        return total, (terms, centers)

    def _see(self, state: TrainState, inputs: StepInputs) -> TeacherOutputs:
        return teacher_forward(self.frozen or self.model, state.target_teacher, inputs)

    def examine(self, state: TrainState, inputs: StepInputs) -> tuple[Targets, Metrics]:
        """Targets and loss terms of the state's student."""
        theirs = self._see(state, inputs)
        targets, _ = self.centering(theirs, self.schedules.teacher_temp(state.step), state.centers)
        ours = student_forward(self.model, state.student, inputs)
        return targets, compare(self, ours, targets, theirs.patches, state, inputs)[1]

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


def compare(
    loss: Compared,
    student: StudentOutputs,
    targets: Targets,
    ema_patches: Float[Array, "G b P D"] | None,
    state: TrainState,
    inputs: StepInputs,
) -> tuple[Float[Array, ""], Metrics]:
    """Total loss of a student's outputs for a batch, or for a micro-batch of it, and its terms.

    `ema_patches` are the Gram targets where there is no other Gram teacher.
    """
    weight = loss.schedules.dino_local_loss_weight(state.step)
    total, terms = loss.objective(student, targets, inputs, weight)
    if loss.gram is None:
        return total, terms
    patches = loss.gram.targets(state.gram_teacher, ema_patches, inputs)
    given = {"teacher": patches, "inputs": inputs, "step": state.step}
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


def make_train_step(
    *,
    loss: LossGradients,
    optimizer: AdamW,
    make_inputs: Callable[..., StepInputs],
    gate: Gate | None = None,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """Build the step. `make_inputs` turns (batch, step) into crops, masks and draws.

    With a `gate` the state has a `Recovery`, and the backbone of student and teacher stays as it is
    until the gate opens.

    A step whose loss or gradient is not finite changes nothing but `step` and the counts of such
    steps: the schedules and the data move on, so the bad batch does not come back. Its metrics
    report ``finite = 0``.
    """

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        grads, terms, centers = loss.gradients(state, batch, make_inputs)
        return learn(loss, optimizer, state, grads, terms, centers, gate)

    return train_step


def learn(
    loss: LossGradients,
    optimizer: AdamW,
    state: TrainState,
    grads: Params,
    terms: Metrics,
    centers: Centers | None,
    gate: Gate | None = None,
) -> tuple[TrainState, Metrics]:
    """The state after a step with these gradients, and what is to be said about it."""
    step, schedules, recovery = state.step, loss.schedules, state.recovery
    rates = Rates(schedules.lr(step), schedules.last_layer_lr(step), schedules.weight_decay(step))
    if gate is not None and recovery is not None:
        rates = rates._replace(backbone=gate.backbone_rate(recovery, step))
        terms = {**terms, **gate.metrics(recovery, step)}
    momentum = schedules.momentum(step)
    with jax.named_scope("optimizer"):
        updated, norms, finite = apply_gradients(
            optimizer, state, grads, terms["total_loss"], rates, momentum
        )
    gram_teacher = state.gram_teacher
    if loss.gram is not None:
        gram_teacher = loss.gram.refreshed(gram_teacher, updated.teacher["backbone"], step + 1)
    if gate is not None and recovery is not None:
        recovery = trees.where(finite, gate.after(recovery, step, terms), recovery)
    refused = state.refused_steps + jnp.logical_not(finite)
    in_a_row = jnp.where(finite, 0, state.refused_in_a_row + 1)
    metrics = {
        **terms,
        **{f"{name}_grad_norm": norm for name, norm in norms.items()},
        "lr": rates.lr,
        "last_layer_lr": rates.last_layer_lr,
        "weight_decay": rates.weight_decay,
        "momentum": momentum,
        "teacher_temp": schedules.teacher_temp(step),
        "dino_local_loss_weight": schedules.dino_local_loss_weight(step),
        "finite": finite,
        "refused_steps": refused,
        "refused_in_a_row": in_a_row,
    }
    return updated._replace(
        step=step + 1,
        centers=trees.where(finite, centers, state.centers),
        refused_steps=refused,
        refused_in_a_row=in_a_row,
        gram_teacher=gram_teacher,
        recovery=recovery,
    ), metrics


def apply_gradients(
    optimizer: AdamW,
    state: TrainState,
    grads: Params,
    loss: Float[Array, ""],
    rates: Rates,
    momentum: Float[Array, ""],
) -> tuple[TrainState, dict[str, Float[Array, ""]], Bool[Array, ""]]:
    """Next moments, student and teacher; gradient norms before clipping; whether all are finite.

    If not, `state` is returned as it is. The choice between old and new comes before anything that
    reads the new: XLA then updates donated buffers in place. Chosen last, it needs the old values
    to the end and copies three of the four trees (0.4 GB of 0.75 GB of temporary memory on CPU,
    ViT-S/16 at 2x112 + 8x48 with 65,536 prototypes).
    """
    grads, norms = clip_by_submodule(grads, optimizer.clip_grad)
    finite = trees.is_finite((loss, norms))
    proposed = optimizer.update_moments(grads, state.moments)
    moments = trees.where(finite, proposed, state.moments)
    proposed = optimizer.update_params(state.student, moments, rates)
    student = trees.where(finite, proposed, state.student)
    momenta = dict.fromkeys(student, momentum)
    if rates.backbone is not None:  # a rounded mean of equal numbers may differ from them
        momenta["backbone"] = jnp.where(rates.backbone > 0, momentum, 1)
    proposed = {name: ema(state.teacher[name], student[name], momenta[name]) for name in student}
    teacher = trees.where(finite, proposed, state.teacher)
    return state._replace(student=student, teacher=teacher, moments=moments), norms, finite
