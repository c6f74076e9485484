"""The weighted sum of losses (DINOv3, Eq. 1; weights of the reference)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from dinojax.losses.centering import softmax_center, update_center
from dinojax.losses.chunked import TeacherRows
from dinojax.losses.dino import dino_loss
from dinojax.losses.ibot import ibot_loss
from dinojax.losses.koleo import koleo_loss
from dinojax.losses.sinkhorn import sinkhorn_knopp
from dinojax.ssl.forward import StudentOutputs, TeacherOutputs
from dinojax.ssl.inputs import StepInputs
from dinojax.ssl.state import Centers
from dinojax.typing import Array, Float


class Targets(NamedTuple):
    """Teacher probabilities; rows sum to one."""

    cls_probs: Float[Array, "V B K"] | TeacherRows
    patch_probs: Float[Array, "G M J"] | TeacherRows


Centering = Callable[
    [TeacherOutputs, Float[Array, ""], Centers | None], tuple[Targets, Centers | None]
]
"""(outputs, teacher temperature, centres) -> targets and the centres of the next step."""


def sinkhorn_centering(
    teacher: TeacherOutputs, temperature: Float[Array, ""], centers: None
) -> tuple[Targets, None]:
    """Sinkhorn-Knopp over the whole batch: one problem of all CLS tokens, one of masked patches."""
    targets = Targets(
        sinkhorn_knopp(teacher.cls_logits, temperature),
        sinkhorn_knopp(teacher.patch_logits, temperature, real=teacher.patch_real),
    )
    return targets, None


def softmax_centering(
    teacher: TeacherOutputs, temperature: Float[Array, ""], centers: Centers
) -> tuple[Targets, Centers]:
    """Softmax around moving-average centres, which this step's outputs move for the next one."""
    targets = Targets(
        softmax_center(teacher.cls_logits, centers.dino, temperature),
        softmax_center(teacher.patch_logits, centers.ibot, temperature),
    )
    moved = Centers(
        update_center(centers.dino, teacher.cls_logits),
        update_center(centers.ibot, teacher.patch_logits, real=teacher.patch_real),
    )
    return targets, moved


class Objective(NamedTuple):
    """Loss weights and the options of each term, in the configuration's words."""

    dino_loss_weight: float = 1.0
    global_ignore_diagonal: bool = True
    ibot_loss_weight: float = 1.0
    koleo_loss_weight: float = 0.1
    koleo_group_size: int | None = None
    koleo_topk: int = 1
    student_temp: float = 0.1
    dino: Callable[..., tuple[Float[Array, ""], Float[Array, " s"]]] = dino_loss
    ibot: Callable[..., Float[Array, ""]] = ibot_loss
    watch: Callable[..., dict[str, Float[Array, ""]]] | None = None
    """``(terms, inputs) -> more terms``, without a gradient."""

    def __call__(
        self,
        student: StudentOutputs,
        targets: Targets,
        inputs: StepInputs,
        local_weight: Float[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Total loss and its terms by the reference's names.

        `local_weight` multiplies the local term only. Crop pairs count alike: with 2 global and 8
        local crops, same-crop pairs ignored, global ones are 1/9 and local ones 8/9 of all. They
        are one call, so that the gradient by the prototypes is reduced once.
        """
        views, images = student.global_cls.shape[:2]
        crops = jnp.arange(views + len(inputs.local_crops))
        dino, crop_losses = self.dino(
            student.cls_logits,
            targets.cls_probs,
            jnp.where(crops < views, 1, local_weight),
            temperature=self.student_temp,
            ignore_diagonal=self.global_ignore_diagonal,
        )
        koleo = jnp.stack(
            [
                koleo_loss(crop, group_size=self.koleo_group_size, topk=self.koleo_topk)
                for crop in student.global_cls
            ]
        ).mean()
        ibot = self.ibot(
            student.patch_logits,
            targets.patch_probs,
            inputs.mask_weights,
            images=views * images,
            temperature=self.student_temp,
        )
        total = (
            self.dino_loss_weight * dino
            + self.koleo_loss_weight * views * koleo
            + self.ibot_loss_weight * ibot
        )
        terms = {
            "total_loss": total,
            "dino_local_crops_loss": crop_losses[views:].mean(),
            "dino_global_crops_loss": crop_losses[:views].mean(),
            "koleo_loss": koleo,
            "ibot_loss": ibot,
        }
        if self.watch is None:
            return total, terms
        return total, {**terms, **self.watch(terms, inputs)}
