"""The flight recorder: what the model saw at a step, and where a record was used.

Nothing is recorded and nothing replayed. Records, crops and masks are functions of (config, data,
seed, step), computed here by the functions that train (`StepBatches`, `build_inputs`); only what
took the place of unreadable records is also in the ledger.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float

from dinojax.build import build_inputs, build_views
from dinojax.config import Config, from_dict
from dinojax.data.check import fingerprint
from dinojax.data.pipeline import StepBatches, TrainBatch, default_threads
from dinojax.resolutions import resolution_at
from dinojax.runtime.contract import read_contract
from dinojax.runtime.metrics import last_step
from dinojax.runtime.quarantine import read_ledger
from dinojax.ssl.prepare import GLOBAL_VIEWS, crop_keys
from dinojax.training_data import TrainingData, open_data
from dinojax.typing import Step
from dinojax.views.params import CropParams, sample_params


@dataclass(frozen=True)
class Run:
    """A workdir, its configuration and the records that it is trained on."""

    workdir: Path
    config: Config
    data: TrainingData

    @functools.cached_property
    def batches(self) -> StepBatches:
        """Of all hosts together."""
        return StepBatches(
            self.data.source,
            self.data.order,
            canvas_px=self.config.data.canvas_px,
            num_threads=default_threads(),
            read_timeout_s=self.config.data.read_timeout_s,
        )

    @functools.cached_property
    def ledger(self) -> list[dict[str, Any]]:
        """The failed reads of the steps that were run."""
        return read_ledger(self.workdir)

    @property
    def steps_run(self) -> int:
        """How many steps the run has logged so far."""
        return last_step(self.workdir)

    def name(self, index: int) -> str:
        """Id of a record; -1 stands for none."""
        return self.data.source.record_id(index) if index >= 0 else "(nothing could be read)"


@dataclass(frozen=True)
class Seen:
    """The first n images of a step as the model gets them; arrays of the host.

    Attributes:
        batch: canvases, their sizes and what could not be read.
        ids: of the records on the canvases.
        global_crops, local_crops: normalised.
        masks: True for the masked patches of the global crops.
        params: the choices behind the crops, every leaf ``[n, ...]``.
    """

    step: int
    batch: TrainBatch
    ids: list[str]
    global_crops: Float[np.ndarray, "V n S S C"]
    local_crops: Float[np.ndarray, "W n s s C"]
    masks: Bool[np.ndarray, "V n P"]
    params: CropParams


class Use(NamedTuple):
    """A slot for which a record was drawn, or which it filled."""

    step: int
    slot: int
    kind: str
    """"drawn", "substitute" (for an unreadable record) or "unreadable" (so not used after all)."""
    other: str | None
    """The record that a substitute stands for, or that stands for an unreadable one."""


def open_run(workdir: str | Path) -> Run:
    """A run that has been started.

    Raises:
        FileNotFoundError: the workdir has no run, or its data is gone.
        ValueError: its files are damaged, or the data is no longer the same.
    """
    return open_contract(read_contract(workdir), workdir)


def open_contract(contract: dict[str, Any], workdir: str | Path) -> Run:
    """The same from what `dinojax.runtime.contract.read_contract` found, then or now."""
    config = from_dict(contract["config"])
    data = open_data(config)
    now = fingerprint(data.source, data.order.mixture, read_timeout_s=config.data.read_timeout_s)
    if now != contract["data_fingerprint"]:
        raise ValueError(
            f"data.source={config.data.source!r} holds other records or other bytes than those "
            f"that {workdir} is trained on; restore them"
        )
    return Run(Path(workdir), config, data)


def rebuild(run: Run, step: int, images: int) -> Seen:
    """The first `images` of a step, which need not have been run yet.

    Choices and masks are exact. So are the crops, to the last bit, where all images of the step are
    asked for on the kind of device that trains; compilers round by shape and by device.

    Raises:
        ValueError: a step that the run does not have, or less than one image.
    """
    steps, batch_size = run.config.train.steps, run.config.train.batch_size
    if not 0 <= step < steps:
        raise ValueError(
            f"step={step} is none of the run's train.steps={steps}; use 0..{steps - 1}"
        )
    if images < 1:
        raise ValueError(f"images={images} must be at least 1; use 8")
    batch = run.batches.read(step, range(min(images, batch_size)))
    arrays = make_rebuild(resolution_at(run.config, step))(batch["canvas"], batch["size"], step)
    ids = [run.name(index) for index in batch["index"].tolist()]
    return Seen(step, batch, ids, *jax.device_get(arrays))


@functools.cache
def make_rebuild(config: Config) -> Callable[..., tuple[Any, ...]]:
    """A jitted ``(canvas, size, step) -> (global crops, local crops, masks, choices)``."""
    make_inputs, views = build_inputs(config), build_views(config)

    @jax.jit
    def inputs_and_choices(canvas: Any, size: Any, step: Step) -> tuple[Any, ...]:
        images = canvas.shape[0]
        inputs = make_inputs({"canvas": canvas, "size": size}, step)
        masks = rearrange(inputs.masks, "G (V g) P -> V (G g) P", V=GLOBAL_VIEWS)[:, :images]
        keys = crop_keys(config.train.seed, step, images)
        choices = jax.vmap(lambda key, hw: sample_params(key, hw, views))(keys, size)
        return inputs.global_crops, inputs.local_crops, masks, choices

    return inputs_and_choices


def changed_since(run: Run, seen: Seen) -> bool:
    """Whether other records are unreadable now than when the step was run."""
    batch_size = run.config.train.batch_size
    then = {
        (entry["slot"], entry["attempt"], entry["id"])
        for entry in run.ledger
        if entry["step"] == seen.step and entry["slot"] < len(seen.ids)
    }
    now = {(p.position % batch_size, p.attempt, p.id) for p in seen.batch["problems"]}
    return seen.step < run.steps_run and then != now


def uses(run: Run, record_id: str, steps: int) -> Iterator[Use]:
    """What steps ``0 .. steps - 1`` had to do with a record, in their order.

    Looks at every position: about 6 s per million images on one core. Steps that were not run yet
    know of no unreadable records.

    Raises:
        ValueError: no record has this id.
    """
    wanted = [i for i in range(len(run.data.source)) if run.name(i) == record_id]
    if not wanted:
        raise ValueError(
            f"id={record_id!r} is no training record; ids look like {run.name(0)!r} (held-out "
            "records are never trained on)"
        )
    replaced: dict[int, dict[int, Use]] = defaultdict(dict)
    for entry in run.ledger:
        step, slot, lost, found = (entry[k] for k in ("step", "slot", "id", "substitute"))
        if entry["attempt"] == 0 and record_id == lost:
            replaced[step][slot] = Use(step, slot, "unreadable", found)
        elif entry["attempt"] == 0 and record_id == found:
            replaced[step][slot] = Use(step, slot, "substitute", lost)
    slots = range(run.config.train.batch_size)
    for step in range(steps):
        drawn = np.flatnonzero(np.isin(run.data.order.indices(step, slots), wanted)).tolist()
        found = {slot: Use(step, slot, "drawn", None) for slot in drawn} | replaced[step]
        yield from (found[slot] for slot in sorted(found))
