"""Gram anchoring (DINOv3, section 4.2): patch similarities are kept near those of a Gram teacher.

The Gram teacher is a backbone without heads: an earlier one from a checkpoint, the EMA teacher of
an earlier step, or the EMA teacher itself. It may see the global crops at a higher resolution; its
patches are then resized to the student's grid before anything is compared.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from einops import rearrange

from dinojax.kernels.resize import resize_grid
from dinojax.losses.gram import gram_loss
from dinojax.models.embed import patch_grid
from dinojax.models.features import Features
from dinojax.models.presets import Backbone
from dinojax.precision import widen
from dinojax.schedules import Schedule
from dinojax.ssl.inputs import StepInputs, gather_patches, to_groups
from dinojax.typing import Array, Bool, Float, Params, Step

TOKENS = ("all", "masked", "unmasked")

Patches = Float[Array, "G b P D"]
Terms = dict[str, Float[Array, ""]]


class Refresh(NamedTuple):
    """After which steps the Gram teacher becomes a copy of the EMA teacher.

    A function of the step alone, so that a resumed run refreshes as the uninterrupted one.
    """

    load_step: int | None = None
    """After this many steps, once."""
    every_steps: int | None = None
    """After every multiple of it from `first_step` on."""
    first_step: int = 0
    max_updates: int | None = None
    """Of those by `every_steps`."""

    def due(self, steps_done: Step) -> Bool[Array, ""]:
        due = jnp.asarray(steps_done) == (-1 if self.load_step is None else self.load_step)
        if self.every_steps is None:
            return due
        earlier = max(-(-self.first_step // self.every_steps), 1) - 1
        update = steps_done // self.every_steps - earlier
        regular = (steps_done % self.every_steps == 0) & (update >= 1)
        if self.max_updates is not None:
            regular &= update <= self.max_updates
        return due | regular


class GramAnchor(NamedTuple):
    """What the Gram stage adds to a step."""

    backbone: Backbone
    """Of student and Gram teacher alike."""
    weight: Schedule
    similarity_loss: Callable[..., Float[Array, ""]] = gram_loss
    """Of student and teacher tokens ``[*B, N, D]``."""
    resize: Callable[..., Array] = resize_grid
    img_level: bool = False
    """One matrix per image instead of one per group of draws."""
    tokens_used: str = "all"
    """Or those that are masked or unmasked for the student; not with `img_level`."""
    compute_stats: bool = False
    refresh: Refresh = Refresh()

    def targets(
        self, params: Params | None, ema_patches: Patches | None, inputs: StepInputs
    ) -> Patches:
        """The teacher's patches on the student's grid; without `params` the EMA teacher's."""
        if params is None:
            assert ema_patches is not None
            return jax.lax.stop_gradient(ema_patches)
        groups = inputs.mask_indices.shape[0]
        crops = inputs.global_crops if inputs.gram_crops is None else inputs.gram_crops
        grid, student_grid = (
            patch_grid(x.shape[2], x.shape[3], self.backbone.stride)
            for x in (crops, inputs.global_crops)
        )
        output = self.backbone.apply({"params": params}, to_groups(crops, groups))
        (features,) = cast(tuple[Features, ...], output)
        patches = rearrange(widen(features.patches), "G b (h w) D -> G b h w D", h=grid[0])
        patches = self.resize(patches, student_grid)
        return jax.lax.stop_gradient(rearrange(patches, "G b h w D -> G b (h w) D"))

    def add_to(
        self,
        total: Float[Array, ""],
        terms: Terms,
        *,
        student: Patches,
        teacher: Patches,
        inputs: StepInputs,
        step: Step,
    ) -> tuple[Float[Array, ""], Terms]:
        """The total loss with this one in it, and all terms by the reference's names."""
        loss, weight = self._loss(self.tokens_used, student, teacher, inputs), self.weight(step)
        total = total + weight * loss
        terms = {**terms, "total_loss": total, "gram_loss": loss, "gram_loss_weight": weight}
        if self.compute_stats:
            fixed = jax.lax.stop_gradient(student)
            for tokens in TOKENS[1:]:
                value = self._loss(tokens, fixed, teacher, inputs)
                terms[f"stats_only/{tokens}_gram_loss"] = value
        return total, terms

    def _loss(self, tokens: str, student: Patches, teacher: Patches, inputs: StepInputs):
        if tokens == "all":
            pattern = "G b P D -> (G b) P D" if self.img_level else "G b P D -> G (b P) D"
            return self.similarity_loss(*(rearrange(x, pattern) for x in (student, teacher)))
        indices = inputs.mask_indices
        if tokens == "unmasked":
            count = student.shape[1] * student.shape[2]
            indices = jax.vmap(partial(_others, count=count))(indices)
        # As many in every group: the counts of masked patches are the same multiset.
        return self.similarity_loss(*(gather_patches(x, indices) for x in (student, teacher)))

    def refreshed(
        self, gram_teacher: Params | None, teacher: Params, steps_done: Step
    ) -> Params | None:
        """The Gram teacher of the next step."""
        if gram_teacher is None or self.refresh == Refresh():
            return gram_teacher
        due = self.refresh.due(steps_done)
        return jax.tree.map(lambda new, old: jnp.where(due, new, old), teacher, gram_teacher)


def _others(indices: Array, *, count: int) -> Array:
    """Of ``0 .. count - 1`` those that are not in `indices`, ascending."""
    left = jnp.ones(count, bool).at[indices].set(False)
    return jnp.flatnonzero(left, size=count - len(indices)).astype(indices.dtype)
