"""What the heads of a run make of held-out images, with the run's own targets."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinojax import trees
from dinojax.evaluation.prototypes import agreement, entropy_share, occupancy
from dinojax.mesh import current_batch_shards, gather, split_batch
from dinojax.ssl.forward import SslModel, TeacherOutputs
from dinojax.ssl.loss import Loss
from dinojax.ssl.state import TrainState
from dinojax.typing import Array, Float, Params, PyTree

HEAD_ROWS = 256
"""Images at most: logits are as wide as there are prototypes."""


class Tokens(NamedTuple):
    """Normed tokens of the same images, and places in them, for both networks."""

    cls: Float[Array | np.ndarray, "R D"]
    patch: Float[Array | np.ndarray, "R D"]


HeadMeasures = Callable[[TrainState, Tokens, Tokens], dict[str, Array]]
"""``(state, of the network that gives the targets, of the student) -> scores``."""


def make_head_measures(loss: Loss) -> HeadMeasures:
    """For CLS with the DINO head and for patches with the iBOT head (``cls_``, ``patch_``):

    * ``occupancy``: `occupancy` of the teacher's logits,
    * ``target_entropy``: `entropy_share` of the targets that the run's centering makes of them, at
      its present temperature. Sinkhorn-Knopp sees these rows alone, fewer than in a step;
    * ``agreement`` of teacher and student.

    The teacher is the one that the student predicts: the frozen one in distillation.
    """
    seen_by = loss.frozen or loss.model

    @jax.jit
    def measure(state: TrainState, teacher: Tokens, student: Tokens) -> dict[str, Array]:
        if len(teacher.cls) % current_batch_shards() == 0:
            teacher, student = split_batch((teacher, student))
        with loss.model.backbone.precision.exact_products():
            theirs = _logits(seen_by, state.target_teacher, teacher)
            ours = _logits(loss.model, state.student, student)
        outputs = TeacherOutputs(
            theirs[0][None], theirs[1][None], jnp.asarray(teacher.patch)[None, :, None]
        )
        temperature = loss.schedules.teacher_temp(state.step)
        targets, _ = loss.centering(outputs, temperature, state.centers)
        scores = {}
        for index, token in enumerate(("cls", "patch")):
            scores[f"{token}_occupancy"] = occupancy(theirs[index])
            scores[f"{token}_target_entropy"] = entropy_share(targets[index])  # type: ignore[arg-type]
            scores[f"{token}_agreement"] = agreement(theirs[index], ours[index])
        return jax.tree.map(gather, scores)

    return measure


def _logits(model: SslModel, params: Params, tokens: Tokens) -> tuple[Array, Array]:
    head_of = partial(_apply, params)
    return (
        head_of(model.dino_head, "dino_head", tokens.cls),
        head_of(model.patch_head, model.patch_head_name, tokens.patch),
    )


def _apply(params: Params, head, name: str, x: Array | np.ndarray) -> Array:
    return head.apply({"params": params[name]}, x)


@jax.jit
def relative_distance(one: PyTree, other: PyTree) -> Float[Array, ""]:
    """``|one - other| / |other|`` over all leaves together."""
    difference = jax.tree.map(lambda a, b: a - b, one, other)
    return gather(trees.global_norm(difference) / trees.global_norm(other))
