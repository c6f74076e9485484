"""Distillation by features: the student's come near those of a teacher that has no heads.

CLS and patches of the global crops, each through a projection of its own to the teacher's width
(AM-RADIO, arXiv:2312.06709, section 3; Proteus, arXiv:2409.08274, section 3). The projections are
left behind with the optimizer; what is kept is the backbone. Nothing couples the images of a batch,
so micro-batches are independent of each other.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from einops import rearrange

from dinojax.kernels.resize import resize_grid
from dinojax.losses.matching import cosine_distance, smooth_l1, standardize
from dinojax.models.embed import patch_grid
from dinojax.models.features import Features
from dinojax.models.presets import Backbone
from dinojax.models.projection import Projection
from dinojax.precision import widen
from dinojax.ssl.forward import init_parts
from dinojax.ssl.inputs import StepInputs, to_groups
from dinojax.ssl.loss import Metrics, Schedules
from dinojax.ssl.micro_batch import MicroBatch, mean_over
from dinojax.ssl.state import TrainState
from dinojax.typing import Array, Float, Int, Key, Params


class MatchingModel(NamedTuple):
    """A backbone and, of a student, its projections; parameters are a dict with the same names."""

    backbone: Backbone
    cls_projection: Projection | None = None
    patch_projection: Projection | None = None

    def init(self, key: Key, channels: int = 3) -> Params:
        """Parameters of all, independent of any image size."""
        return init_parts(self._asdict(), key, channels)


class TokenFeatures(NamedTuple):
    """Normed features of global crops, in group layout."""

    cls: Float[Array, "*m G b D"]
    patches: Float[Array, "*m G b P D"]


class FeatureObjective(NamedTuple):
    """The weights of four means over tokens."""

    cls_cosine_weight: float = 1.0
    cls_smooth_l1_weight: float = 0.0
    patch_cosine_weight: float = 0.9
    patch_smooth_l1_weight: float = 0.1
    smooth_l1_beta: float = 1.0

    def __call__(
        self, student: TokenFeatures, teacher: TokenFeatures
    ) -> tuple[Float[Array, ""], Metrics]:
        """Total loss and its terms."""
        distances = {
            "cosine": cosine_distance,
            "smooth_l1": partial(smooth_l1, beta=self.smooth_l1_beta),
        }
        terms = {
            f"{token}_{name}": distance(*pair).mean()
            for token, pair in (
                ("cls", (student.cls, teacher.cls)),
                ("patch", (student.patches, teacher.patches)),
            )
            for name, distance in distances.items()
        }
        weighted = [getattr(self, f"{name}_weight") * term for name, term in terms.items()]
        total = jnp.stack(weighted).sum()
        return total, {"total_loss": total, **{f"{k}_loss": term for k, term in terms.items()}}


class FeatureLoss(NamedTuple):
    """Takes the place of `loss.Loss`; the update is the same for every number of micro-batches."""

    model: MatchingModel
    frozen: MatchingModel
    """The model of `TrainState.frozen_teacher`."""
    objective: FeatureObjective
    schedules: Schedules
    norm: Callable[[Array], Array] = standardize
    """Of the teacher's features, token by token."""
    micro_batches: int = 1

    @property
    def gram(self) -> None:
        return None

    def see(
        self, state: TrainState, batch: Any, make_inputs: Callable[..., StepInputs]
    ) -> TokenFeatures:
        """What the teacher makes of a batch, micro-batch by micro-batch; on its own grid."""

        def part(index: Int[Array, ""]) -> TokenFeatures:
            return self._see(state, self._inputs(make_inputs, batch, state, index))

        return jax.lax.map(part, jnp.arange(self.micro_batches))

    def gradients(
        self,
        state: TrainState,
        batch: Any,
        make_inputs: Callable[..., StepInputs],
        seen: TokenFeatures | None = None,
    ) -> tuple[Params, Metrics, None]:
        """By the student's parameters; the loss terms. There are no centres."""

        def part(given: tuple[Int[Array, ""], TokenFeatures | None]) -> tuple[Params, Metrics]:
            index, theirs = given
            inputs = self._inputs(make_inputs, batch, state, index)
            theirs = self._see(state, inputs) if theirs is None else theirs
            targets = jax.lax.stop_gradient(self._targets(theirs, inputs))

            def loss(student: Params) -> tuple[Float[Array, ""], Metrics]:
                return self.objective(projected(self.model, student, inputs), targets)

            return jax.grad(loss, has_aux=True)(state.student)

        grads, terms = mean_over(part, (jnp.arange(self.micro_batches), seen))
        return grads, terms, None

    def examine(self, state: TrainState, inputs: StepInputs) -> tuple[TokenFeatures, Metrics]:
        """Targets and loss terms of a whole batch."""
        targets = self._targets(self._see(state, inputs), inputs)
        return targets, self.objective(projected(self.model, state.student, inputs), targets)[1]

    def _inputs(
        self, make: Callable[..., StepInputs], batch: Any, state: TrainState, index: Array
    ) -> StepInputs:
        with jax.named_scope("views"):
            return make(batch, state.step, MicroBatch(index, self.micro_batches))

    def _see(self, state: TrainState, inputs: StepInputs) -> TokenFeatures:
        own, params = inputs.teacher_crops, state.target_teacher
        crops = inputs.global_crops if own is None else own
        return _features(self.frozen.backbone, params, crops, inputs)

    def _targets(self, seen: TokenFeatures, inputs: StepInputs) -> TokenFeatures:
        """On the student's grid, normed."""
        own, shown = inputs.teacher_crops, inputs.global_crops
        theirs, ours = (
            patch_grid(crops.shape[2], crops.shape[3], model.backbone.stride)
            for crops, model in ((shown if own is None else own, self.frozen), (shown, self.model))
        )
        patches = rearrange(seen.patches, "G b (h w) D -> G b h w D", h=theirs[0])
        if theirs != ours:
            patches = resize_grid(widen(patches), ours, method="bilinear", antialias=True)
        patches = rearrange(patches, "G b h w D -> G b (h w) D")
        return TokenFeatures(self.norm(seen.cls), self.norm(patches))


def projected(model: MatchingModel, params: Params, inputs: StepInputs) -> TokenFeatures:
    """The student's features in the teacher's width, of whole global crops."""
    features = _features(
        model.backbone, params, inputs.global_crops, inputs, draws=inputs.draws[:1]
    )

    def project(name: str, x: Array) -> Array:
        return cast(Array, getattr(model, name).apply({"params": params[name]}, x))

    return TokenFeatures(
        project("cls_projection", features.cls), project("patch_projection", features.patches)
    )


def _features(
    backbone: Backbone, params: Params, crops: Array, inputs: StepInputs, **options: Any
) -> TokenFeatures:
    groups = inputs.mask_indices.shape[0]
    output = backbone.apply({"params": params["backbone"]}, to_groups(crops, groups), **options)
    (features,) = cast(tuple[Features, ...], output)
    return TokenFeatures(features.cls, features.patches)
