"""Runs whose loop notes what goes by, for the tests of the flight recorder."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from einops import rearrange
from images import encode, smooth
from pixels import assert_same_pixels
from spies import noting_inputs

from dinojax import mesh as meshes
from dinojax import train as app
from dinojax.build import inputs as build_inputs
from dinojax.config import Config, default_config, parse_config
from dinojax.config.resolutions import resolution_at
from dinojax.config.shrink import shrink
from dinojax.data.pipeline import TrainBatch
from dinojax.recorder import rebuild
from dinojax.runs import Run, open_run
from dinojax.runtime.loop import Outcome
from dinojax.ssl.inputs import StepInputs
from dinojax.training import attempt, compiled_step

STEPS, BATCH = 4, 16
FILES = {f"{i:02d}.png": encode(np.roll(smooth(40, 56), 5 * i, 1), "PNG") for i in range(30)}
BAD = {f"bad{i}.jpg": b"no image" for i in range(8)}


PLAIN = {
    "crops__jitter_probability": 0.0,
    "crops__grey_probability": 0.0,
    "crops__blur_probabilities": (0.0, 0.0, 0.0),
    "crops__solarize_probabilities": (0.0, 0.0, 0.0),
}
"""Crops that compile sooner, where it matters which records they are cut from."""


class Trained(NamedTuple):
    """A finished run, and what its loop and its train step were given."""

    run: Run
    inputs: list[StepInputs]
    batches: list[TrainBatch]

    @property
    def folder(self) -> Path:
        return self.run.workdir.parent / "images"


def config(**keys) -> Config:
    given = shrink(default_config())
    given.train.batch_size, given.train.draw_group_size = BATCH, 1
    given.train.steps = STEPS + 10
    given.dino.koleo_group_size = 2
    given.data.bad_budget = 1.0
    given.knn.every_steps = 0
    # The smallest model: only its inputs count.
    given.student.depth, given.student.drop_path_rate = 1, 0.0
    given.student.pos_embed_rope_rescale_coords = None
    given.update_from_flattened_dict({k.replace("__", "."): v for k, v in keys.items()})
    return parse_config(given)


def whole_step(given: Config):
    """The train step of the app, and what its inputs are."""
    train_step, seen = noting_inputs(given)

    def step(state, batch):
        state, metrics = train_step(state, batch)
        return state, metrics | {"inputs": seen["inputs"]}

    return step


def inputs_only(given: Config):
    """Its beginning, which compiles sooner. Give it one device: on several, crops are computed in
    pieces of other shapes, and the compiler is free to round them otherwise."""
    make_inputs = build_inputs.build_inputs(given)
    return lambda state, batch: (
        state._replace(step=state.step + 1),
        {"inputs": make_inputs(batch, state.step)},
    )


def train(root: Path, given: Config, build_step, devices: int = 1) -> Trained:
    """The training app itself; its loop hands over what goes by."""
    inputs, batches = [], []

    def loop(state, *, train_step_at, batches, first_step, writer, **_):
        for step in range(first_step, STEPS):
            state, metrics = train_step_at(step)(state, next(batches))
            inputs.append(jax.device_get(metrics["inputs"]))
            writer.write(step + 1, {"total_loss": 1.0})
        return Outcome(state, 1.0)

    def global_batches(host_batches, mesh):
        def noted():
            for batch in host_batches:
                batches.append(batch)
                yield batch

        return original(noted(), mesh)

    original = attempt.global_batches
    mesh = meshes.make_mesh(-1, max(given.mesh.fsdp, 1), devices=jax.devices()[:devices])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshes, "make_mesh", lambda *sizes: mesh)
        patch.setattr(compiled_step, "build_train_step", build_step)
        patch.setattr(attempt, "run", loop)
        patch.setattr(attempt, "global_batches", global_batches)
        app.train(given, str(root / "run"))
    return Trained(open_run(root / "run"), inputs, batches)


def check_step(trained: Trained, step: int) -> None:
    """The whole batch of a step, rebuilt, is what the train step got."""
    seen, batch = rebuild(trained.run, step, 99), trained.batches[step]
    inputs = trained.inputs[step]
    assert seen.batch["problems"] == batch["problems"] and not seen.gone
    for name in ("canvas", "size", "index"):
        np.testing.assert_array_equal(seen.batch[name], batch[name])
    source = trained.run.data.source
    assert seen.ids == [source.record_id(index) for index in batch["index"].tolist()]
    assert_same_pixels(seen.global_crops, inputs.global_crops)
    assert_same_pixels(seen.local_crops, inputs.local_crops)
    masks = rearrange(inputs.masks, "G (V g) P -> V (G g) P", V=2)
    np.testing.assert_array_equal(seen.masks, masks)
    crops, channels = resolution_at(trained.run.config, step).crops, batch["canvas"].shape[-1]
    sides = (crops.global_crops_size,) * 2
    assert seen.global_crops.shape == (2, BATCH, *sides, channels) and seen.masks.any()
