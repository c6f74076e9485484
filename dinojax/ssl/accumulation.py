"""The loss of a step in micro-batches whose gradients add up to those of the whole batch.

What couples images is all of a batch (Sinkhorn-Knopp, moving centres) or a group of them (KoLeo,
random draws). So the teacher sees all micro-batches first. From its bottleneck features comes one
centre per prototype, which is all that a micro-batch has to know of the others
(`losses.chunked_sinkhorn`). Then the student sees them one after another, each of whole groups. The
teacher's logits are computed again instead of kept, and so are the views.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from dinojax.losses.centering import mean_of_rows, update_center
from dinojax.losses.chunked import Rows, TeacherRows, columns_of
from dinojax.losses.chunked_sinkhorn import sinkhorn_center
from dinojax.losses.chunks import per_shard
from dinojax.losses.fused import fused_sinkhorn_center
from dinojax.models.head import DinoHead
from dinojax.precision import widen
from dinojax.ssl.forward import (
    Bottlenecks,
    SslModel,
    StudentOutputs,
    student_bottlenecks,
    teacher_bottlenecks,
)
from dinojax.ssl.gram import GramAnchor
from dinojax.ssl.inputs import StepInputs, to_views
from dinojax.ssl.loss import Metrics, Schedules, anchored, compare
from dinojax.ssl.micro_batch import MicroBatch, mean_over
from dinojax.ssl.objective import Objective, Targets
from dinojax.ssl.state import Centers, TrainState
from dinojax.typing import Array, Bool, Float, Int, Params


class Prototypes(NamedTuple):
    """The last layers of both heads."""

    dino: Float[Array, "F K"]
    ibot: Float[Array, "E J"]


def prototypes_of(model: SslModel, params: Params) -> Prototypes:
    def columns(head: DinoHead, name: str) -> Float[Array, "F K"]:
        return cast(Array, head.apply({"params": params[name]}, method="prototype_columns"))

    return Prototypes(
        columns(model.dino_head, "dino_head"), columns(model.patch_head, model.patch_head_name)
    )


Centering = Callable[
    [Bottlenecks, Prototypes, Float[Array, ""], Centers | None], tuple[Centers, Centers | None]
]
"""(features of all micro-batches, prototypes, temperature, centres) -> the centres of this step's
targets, which are ``softmax((logits - center) / temperature)``, and those kept for the next."""


def sinkhorn_centers(
    features: Bottlenecks,
    prototypes: Prototypes,
    temperature: Float[Array, ""],
    centers: None,
    *,
    chunk: int | None = None,
) -> tuple[Centers, None]:
    """As `sinkhorn_centering`; by default a micro-batch's logits exist at a time."""
    del centers

    def solve(rows: Float[Array, "Z R F"], *given, **options) -> Float[Array, " K"]:
        size = rows.shape[1] // len(features.cls) if chunk is None else chunk
        return sinkhorn_center(rows, *given, chunk=size, **options)

    return _solved(solve, features, prototypes, temperature), None


def fused_sinkhorn_centers(
    features: Bottlenecks, prototypes: Prototypes, temperature: Float[Array, ""], centers: None
) -> tuple[Centers, None]:
    """The same by TPU kernels."""
    del centers
    return _solved(fused_sinkhorn_center, features, prototypes, temperature), None


def _solved(
    solve: Callable[..., Float[Array, " K"]],
    features: Bottlenecks,
    prototypes: Prototypes,
    temperature: Float[Array, ""],
) -> Centers:
    """One problem of all CLS tokens and one of all masked patches, `solve` as `sinkhorn_center`."""

    def center(
        x: Float[Array, "m G n F"],
        columns: Float[Array, "F K"],
        real: Bool[Array, "m G n"] | None = None,
    ) -> Float[Array, " K"]:
        rows = per_shard("m (Z g) n F -> Z (m g n) F", x)
        real = None if real is None else per_shard("m (Z g) n -> Z (m g n)", real)
        return solve(rows, columns, temperature, real=real)

    return Centers(
        center(features.cls, prototypes.dino),
        center(features.patches, prototypes.ibot, features.real),
    )


def moving_centers(
    features: Bottlenecks,
    prototypes: Prototypes,
    temperature: Float[Array, ""],
    centers: Centers,
) -> tuple[Centers, Centers]:
    """As `softmax_centering`: the mean logit is the logit of the mean feature."""

    def moved(
        center: Float[Array, " K"],
        x: Float[Array, "m G n F"],
        columns: Float[Array, "F K"],
        real: Bool[Array, "m G n"] | None = None,
    ) -> Float[Array, " K"]:
        mean = mean_of_rows(widen(x), real)
        return update_center(center, (mean @ widen(columns.astype(x.dtype)))[None])

    return centers, Centers(
        moved(centers.dino, features.cls, prototypes.dino),
        moved(centers.ibot, features.patches, prototypes.ibot, features.real),
    )


class Seen(NamedTuple):
    """What a teacher made of all micro-batches, along a leading axis."""

    features: Bottlenecks
    patches: Float[Array, "*m G b P D"] | None
    """Only where they are the Gram targets."""


class AccumulatedLoss(NamedTuple):
    """Takes the place of `Loss`; the update is the same for every number of micro-batches.

    The objective's cross-entropies are those of `losses.chunked` or `losses.fused`.
    """

    model: SslModel
    objective: Objective
    centering: Centering
    schedules: Schedules
    micro_batches: int = 1
    gram: GramAnchor | None = None
    frozen: SslModel | None = None

    def see(self, state: TrainState, batch: Any, make_inputs: Callable[..., StepInputs]) -> Seen:
        """What the teacher makes of a batch, micro-batch by micro-batch."""
        model, teacher = self.frozen or self.model, state.target_teacher
        # Of the EMA teacher as the Gram teacher; another one looks at a part when it is its turn.
        keep_patches = self.gram is not None and state.gram_teacher is None

        def part(index: Int[Array, ""]) -> Seen:
            with jax.named_scope("views"):
                inputs = make_inputs(batch, state.step, MicroBatch(index, self.micro_batches))
            features, patches = teacher_bottlenecks(model, teacher, inputs)
            return Seen(features, patches if keep_patches else None)

        return jax.lax.map(part, jnp.arange(self.micro_batches))

    def gradients(
        self,
        state: TrainState,
        batch: Any,
        make_inputs: Callable[..., StepInputs],
        seen: Seen | None = None,
    ) -> tuple[Params, Metrics, Centers | None]:
        """By the student's parameters, summed in their dtype; loss terms and the next centres.

        Args:
            make_inputs: ``(batch, step, micro_batch)`` to the inputs of that part.
        """
        step = state.step
        temperature = self.schedules.teacher_temp(step)
        seen = self.see(state, batch, make_inputs) if seen is None else seen
        columns = jax.tree.map(  # gathered once, for centres and targets of all micro-batches
            lambda x: columns_of(x, seen.features.cls),
            prototypes_of(self.frozen or self.model, state.target_teacher),
        )
        centers, next_centers = self.centering(seen.features, columns, temperature, state.centers)

        def inputs_of(index: Int[Array, ""]) -> StepInputs:
            with jax.named_scope("views"):
                return make_inputs(batch, step, MicroBatch(index, self.micro_batches))

        def part(given: tuple[Int[Array, ""], Seen]) -> tuple[Params, Metrics]:
            index, (features, ema_patches) = given
            inputs = inputs_of(index)
            cls = to_views(features.cls, inputs.global_crops.shape[0])
            targets = Targets(
                TeacherRows(cls, columns.dino, centers.dino, temperature),
                TeacherRows(features.patches, columns.ibot, centers.ibot, temperature),
            )

            patches, inputs = anchored(self, ema_patches, state, inputs)

            def loss(student: Params) -> tuple[Float[Array, ""], Metrics]:
                outputs = student_rows(self.model, student, inputs)
                return compare(self, outputs, targets, patches, state, inputs)

            return jax.grad(loss, has_aux=True)(state.student)

        grads, terms = mean_over(part, (jnp.arange(self.micro_batches), seen))
        return grads, terms, next_centers


def student_rows(model: SslModel, params: Params, inputs: StepInputs) -> StudentOutputs:
    """As `student_forward`, with logits that are not computed yet."""
    whole, features = student_bottlenecks(model, params, inputs)
    views, local_views = inputs.global_crops.shape[0], inputs.local_crops.shape[0]
    cls, columns = to_views(features.cls, views + local_views), prototypes_of(model, params)
    return StudentOutputs(
        to_views(whole.cls, views),
        cls_logits=Rows(cls, columns.dino),
        patch_logits=Rows(features.patches, columns.ibot),
        patches=whole.patches,
    )
