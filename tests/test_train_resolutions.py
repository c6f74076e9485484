"""Training on several resolutions: all are compiled before a batch is taken, none afterwards."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import mesh as meshes
from dinojax import train as app
from dinojax.build.flops import build_flops
from dinojax.build.inputs import build_views
from dinojax.config import Config, default_config, parse_config
from dinojax.config.resolutions import resolution_at, resolution_order, resolutions
from dinojax.config.shrink import shrink
from dinojax.ssl.prepare import crop_keys
from dinojax.training import attempt, compiled_step
from dinojax.views.render import make_crops

COMPILED = "/jax/core/compile/backend_compile_duration"
compilations = itertools.count()
counted = 0


def count(event: str, _seconds: float, **_: object) -> None:
    global counted
    if event == COMPILED:
        counted = next(compilations) + 1


jax.monitoring.register_event_duration_secs_listener(count)


def config(steps: int, **crops) -> Config:
    config = shrink(default_config())
    config.student.depth = 1
    config.train.batch_size = config.train.draw_group_size = 4
    config.train.steps = steps
    config.knn.every_steps = 0
    config.checkpoint.every_steps = 1000
    config.data.verify_images = 1
    config.update_from_flattened_dict({f"crops.{name}": value for name, value in crops.items()})
    return parse_config(config)


FIVE = {
    "global_crops_size": (32, 48, 48, 48, 48),
    "local_crops_size": (16, 16, 24, 32, 40),
    "global_local_crop_pairs_ratios": (0.3, 0.3, 0.3, 0.05, 0.05),
}


def build_toy_step(config: Config):
    """A step that compiles at once, another one for each resolution."""

    def step(state, batch):
        loss = batch["canvas"].mean() * config.crops.local_crops_size
        return state._replace(step=state.step + 1), {
            "total_loss": loss,
            "refused_in_a_row": state.refused_in_a_row,
        }

    return step


@pytest.mark.parametrize(
    ("config", "toy"),
    [
        (config(40, **FIVE), True),
        pytest.param(config(40, **FIVE), False, marks=pytest.mark.slow),
    ],
    ids=["toy", "real"],
)
def test_nothing_is_compiled_once_data_is_taken(config, toy, tmp_path, monkeypatch):
    if toy:
        monkeypatch.setattr(compiled_step, "build_train_step", build_toy_step)
    compiled_by_then, sizes = [], []
    compile_step, global_batches = attempt.compile_step, attempt.global_batches

    def watched_step(one, *rest):
        step = compile_step(one, *rest)

        def run(state, batch):
            sizes.append((one.crops.global_crops_size, one.crops.local_crops_size))
            return step(state, batch)

        return run

    def watched_batches(batches, mesh):
        compiled_by_then.append(counted)
        for batch in global_batches(batches, mesh):
            yield batch
            compiled_by_then.append(counted)

    one_device = meshes.make_mesh(1, 1, devices=jax.devices()[:1])  # compiles faster
    monkeypatch.setattr(app, "run_mesh", lambda config: one_device)
    monkeypatch.setattr(attempt, "compile_step", watched_step)
    monkeypatch.setattr(attempt, "global_batches", watched_batches)
    before = counted
    app.train(config, str(tmp_path))

    steps = config.train.steps
    assert compiled_by_then[0] >= before + len(resolutions(config))
    assert compiled_by_then == [compiled_by_then[0]] * steps
    crops = [resolution_at(config, step).crops for step in range(steps)]
    assert sizes == [(c.global_crops_size, c.local_crops_size) for c in crops]
    assert len(set(sizes)) == len(resolutions(config))

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["total_loss"] for line in lines if "total_loss" in line}
    assert list(losses) == list(range(1, steps + 1))
    assert np.isfinite(list(losses.values())).all()
    # Every step is a log window here: its MFU over its speed is what its resolution costs.
    flops = [build_flops(one) for one in resolutions(config)]
    order = resolution_order(config)
    rated = [line for line in lines if "mfu" in line]
    cost = np.array([line["mfu"] / line["images_per_s"] for line in rated])
    expected = np.array([flops[order.at(line["step"] - 1)[0]] for line in rated])
    np.testing.assert_allclose(cost / cost[0], expected / expected[0], rtol=1e-6)


def build_gram_step(config: Config):
    """The part of the Gram stage's step that there is: the crops of its teacher."""
    views = build_views(config)

    def step(state, batch):
        keys = crop_keys(config.train.seed, state, config.train.batch_size)
        return state + 1, make_crops(batch["canvas"], batch["size"], keys, views)

    return step


@pytest.mark.slow
def test_gram_sizes_are_compiled_ahead_too(monkeypatch):
    """Also of resolutions that differ in nothing else; each step runs the program of its own."""
    sizes = {
        "global_crops_size": (32, 32, 48),
        "local_crops_size": (16, 16, 24),
        "gram_teacher_crops_size": (48, 64, 64),
    }
    undistorted = {
        "jitter_probability": 0.0,
        "grey_probability": 0.0,
        "blur_probabilities": (0.0,) * 3,
        "solarize_probabilities": (0.0,) * 3,
    }
    several = config(12, **sizes, **undistorted)
    monkeypatch.setattr(compiled_step, "build_train_step", build_gram_step)
    mesh = meshes.make_mesh(1, 1, devices=jax.devices()[:1])
    state = jax.device_put(jnp.zeros((), int), meshes.replicated(mesh))
    side = several.data.canvas_px
    batch = {
        "canvas": np.zeros((4, side, side, 3), np.uint8),
        "size": np.full((4, 2), side, np.int32),
    }
    batch = jax.device_put(batch, meshes.batch_sharding(mesh))
    before = counted
    steps = [attempt.compile_step(one, mesh, state) for one in resolutions(several)]
    ahead = counted
    assert ahead == before + 3

    order, taken = resolution_order(several), set()
    for number in range(several.train.steps):
        choice = order.at(number)[0]
        state, crops = steps[choice](state, batch)
        sides = tuple(views.shape[2] for views in crops[:3])
        assert sides == tuple(values[choice] for values in sizes.values())
        taken.add(sides)
    assert len(taken) == 3 and counted == ahead
