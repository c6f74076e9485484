"""The flight recorder: what the model saw at a step, and where a record was used.

Nothing is replayed. Records, crops and masks are functions of (config, data, seed, step), computed
here by the functions that train (`StepBatches`, `build_inputs`). Which records were unreadable is a
matter of the day: what took their places is in the ledger, and for steps that were run the ledger
decides, whatever can be read today.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float

from dinojax.build.inputs import build_inputs, build_views, draw_group_size, predicted_grid
from dinojax.config import Config
from dinojax.config.resolutions import resolution_at
from dinojax.data.pipeline import TrainBatch
from dinojax.runs import Run
from dinojax.ssl.prepare import GLOBAL_VIEWS, crop_keys
from dinojax.typing import Step
from dinojax.views.params import CropParams, sample_params


@dataclass(frozen=True)
class Seen:
    """The first n images of a step as the model gets them; arrays of the host.

    Attributes:
        batch: canvases, their sizes, and the unreadable records that others stand for.
        ids: of the records on the canvases.
        gone: what is wrong with the records that were shown in some slots and cannot be read any
            more. Sizes, crops and choices of these slots mean nothing; masks need no image.
        global_crops, local_crops: normalised.
        masks: True for the patches of the global crops that are predicted; they are masked for the
            student, but in distillation.
        params: the choices behind the crops, every leaf ``[n, ...]``.
    """

    step: int
    batch: TrainBatch
    ids: list[str]
    gone: dict[int, str]
    global_crops: Float[np.ndarray, "V n S S C"]
    local_crops: Float[np.ndarray, "W n s s C"]
    masks: Bool[np.ndarray, "V n P"]
    params: CropParams


class Use(NamedTuple):
    """A slot for which a record was drawn, or which it filled."""

    step: int
    slot: int
    kind: str
    """"drawn", "substitute" (for an unreadable record), "unreadable" (so not used after all) or
    "no-op" (drawn or a substitute, in a step that the run has left out)."""
    other: str | None
    """The record that a substitute stands for, or that stands for an unreadable one."""


def rebuild(run: Run, step: int, images: int) -> Seen:
    """The first `images` of a step, which need not have been run yet.

    Records, canvases, choices and masks are exact. Crops are up to rounding, which the compiler
    chooses by program, shape and device: on a CPU 5e-7 of their standard deviation at most, and
    nothing with most optimisations off (the tests) where all images of the step are asked for.

    Raises:
        ValueError: a step that the run does not have, less than one image, or a ledger that is not
            the run's.
    """
    steps, batch_size = run.config.train.steps, run.config.train.batch_size
    if not 0 <= step < steps:
        raise ValueError(
            f"step={step} is none of the run's train.steps={steps}; use 0..{steps - 1}"
        )
    if images < 1:
        raise ValueError(f"images={images} must be at least 1; use 8")
    slots = range(min(images, batch_size))
    batch, records = run.batch(step, slots)
    if step < run.steps_read:
        positions = range(step * batch_size, step * batch_size + len(slots))
        replaced = [p for position in positions for p in run.ledger.get(position, ())]
    else:
        replaced = [p for p in batch["problems"] if p.substitute is not None]
    lost = [p for p in batch["problems"] if p.substitute is None and p.attempt == 0]
    arrays = make_rebuild(resolution_at(run.config, step))(batch["canvas"], batch["size"], step)
    shown = np.where(batch["index"] >= 0, batch["index"], records)
    return Seen(
        step,
        {**batch, "problems": tuple(replaced)},
        [run.data.source.record_id(index) for index in shown.tolist()],
        {p.position % batch_size: p.cause for p in lost},
        *jax.device_get(arrays),
    )


@functools.cache
def make_rebuild(config: Config) -> Callable[..., tuple[Any, ...]]:
    """A jitted ``(canvas, size, step) -> (global crops, local crops, masks, choices)``."""
    make_inputs, views = build_inputs(config), build_views(config)
    group, patches = draw_group_size(config), predicted_grid(config) ** 2

    @jax.jit
    def inputs_and_choices(canvas: Any, size: Any, step: Step) -> tuple[Any, ...]:
        images = canvas.shape[0]
        inputs = make_inputs({"canvas": canvas, "size": size}, step)
        indices = inputs.mask_indices  # also where the student is shown what it predicts
        flat = jnp.zeros((len(indices), GLOBAL_VIEWS * group * patches), bool)
        flat = jax.vmap(lambda row, index: row.at[index].set(True))(flat, indices)
        masks = rearrange(flat, "G (V g P) -> V (G g) P", V=GLOBAL_VIEWS, g=group)[:, :images]
        keys = crop_keys(config.train.seed, step, images)
        choices = jax.vmap(lambda key, hw: sample_params(key, hw, views))(keys, size)
        return inputs.global_crops, inputs.local_crops, masks, choices

    return inputs_and_choices


def uses(run: Run, record_id: str, steps: int) -> Iterator[Use]:
    """What steps ``0 .. steps - 1`` had to do with a record, in their order.

    Looks at every position: about 6 s per million images on one core. Of steps that were not run
    yet nobody knows which records will be unreadable.

    Raises:
        ValueError: no record has this id.
    """
    wanted, batch_size = run.find(record_id), run.config.train.batch_size
    if not wanted:
        raise ValueError(
            f"id={record_id!r} is no training record; ids look like "
            f"{run.data.source.record_id(0)!r} (held-out records are never trained on)"
        )
    replaced: dict[int, dict[int, Use]] = defaultdict(dict)
    for position, (first, *_) in run.ledger.items():
        step, slot = divmod(position, batch_size)
        if record_id == first.id:
            replaced[step][slot] = Use(step, slot, "unreadable", first.substitute)
        elif record_id == first.substitute:
            replaced[step][slot] = Use(step, slot, "substitute", first.id)
    for step in range(steps):
        indices = run.data.order.indices(step, range(batch_size))
        drawn = np.flatnonzero(np.isin(indices, wanted)).tolist()
        found = {slot: Use(step, slot, "drawn", None) for slot in drawn} | replaced[step]
        for slot in sorted(found):
            shown = found[slot].kind != "unreadable"
            left_out = shown and run.left_out(step)
            yield found[slot]._replace(kind="no-op") if left_out else found[slot]
