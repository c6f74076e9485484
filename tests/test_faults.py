"""Numbers that go wrong in training: the state stays, the bundle replays and names the culprit."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from recorded import PLAIN

from dinojax import mesh, replay, trees
from dinojax import train as app
from dinojax.build import inputs as build_inputs
from dinojax.build import loss as build_loss
from dinojax.build import step as build
from dinojax.build.step import build_init
from dinojax.config import Config, default_config, parse_config, shrink
from dinojax.runtime.checkpoint import Checkpoints, abstract
from dinojax.runtime.stored_state import read_state
from dinojax.ssl.gram import Refresh
from dinojax.ssl.loss import LossGradients
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.train import train
from dinojax.training import attempt
from dinojax.training.safety import teacher_part

NAN_STEP, INF_STEP, STEPS, BATCH = 1, 3, 5, 4


def tiny() -> Config:
    config = shrink.shrink(default_config())
    config.crops.global_crops_size, config.crops.local_crops_size = 32, 16
    config.train.steps = STEPS
    config.train.batch_size, config.train.draw_group_size = BATCH, 2
    config.train.micro_batches = 2
    config.dino.koleo_group_size = 2
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in PLAIN.items()})
    config.student.drop_path_rate = 0.0
    config.student.pos_embed_rope_rescale_coords = None
    config.data.verify_images = 1
    config.knn.every_steps = 0
    config.checkpoint.every_steps = 1
    config.checkpoint.keep_last = 20
    config.checkpoint.snapshot_every_steps = 2
    return parse_config(config)


def one_device() -> Mesh:
    """Compiles faster."""
    return mesh.make_mesh(devices=jax.devices()[:1])


class PoisonedGradients(NamedTuple):
    """Those of a loss, with one infinite number at one step."""

    loss: LossGradients

    @property
    def schedules(self):
        return self.loss.schedules

    @property
    def gram(self):
        return self.loss.gram

    def see(self, state, batch, make_inputs):
        return self.loss.see(state, batch, make_inputs)

    def gradients(self, state, batch, make_inputs, seen=None):
        grads, terms, centers = self.loss.gradients(state, batch, make_inputs, seen)
        kernel = grads["dino_head"]["mlp_1"]["kernel"]
        value = jnp.where(state.step == INF_STEP, jnp.inf, kernel[2, 3])
        grads["dino_head"]["mlp_1"]["kernel"] = kernel.at[2, 3].set(value)
        return grads, terms, centers


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def run(tmp_path_factory, patch) -> Path:
    """Views of step 1 are NaN after normalisation; a gradient of step 3 has one infinite number."""
    make_step_views = build_inputs.make_step_views

    def poisoned_inputs(*args: Any, **options: Any):
        inputs_of = make_step_views(*args, **options)

        def inputs(batch, *given):
            inputs = inputs_of(batch, *given)
            value = jnp.where(given[0] == NAN_STEP, jnp.nan, inputs.local_crops[:, :, 3, 4, 0])
            return inputs._replace(local_crops=inputs.local_crops.at[:, :, 3, 4, 0].set(value))

        return inputs

    build_step_loss = build_loss.build_step_loss
    compile_step, compiled = attempt.compile_step, {}

    def compile_once(config, *on):
        if config not in compiled:
            compiled[config] = compile_step(config, *on)
        return compiled[config]

    patch.setattr(build_inputs, "make_step_views", poisoned_inputs)
    for module in (build, replay):
        patch.setattr(
            module, "build_step_loss", lambda config: PoisonedGradients(build_step_loss(config))
        )
    for module in (attempt, replay):
        patch.setattr(module, "compile_step", compile_once)
    for module in (app, replay):
        patch.setattr(module, "run_mesh", lambda config: one_device())
    patch.setattr(replay, "step_findings", functools.cache(replay.step_findings))
    workdir = tmp_path_factory.mktemp("faults") / "run"
    summary = train(tiny(), str(workdir))
    assert summary["nonfinite_steps"] == 2
    return workdir


def wanted() -> TrainState:
    shapes = jax.eval_shape(build_init(tiny()))
    return abstract(shapes, mesh.shardings(one_device(), shapes))


def state_at(workdir: Path, step: int) -> TrainState:
    with Checkpoints(workdir / "checkpoints", every_steps=1) as checkpoints:
        return checkpoints.restore(wanted(), step)


def changed(before: TrainState, after: TrainState) -> set[str]:
    pairs = zip(trees.flatten(before).items(), trees.flatten(after).values(), strict=True)
    same = np.array_equal
    return {n for (n, a), b in pairs if not same(np.asarray(a), np.asarray(b), equal_nan=True)}


@pytest.mark.parametrize("step", [NAN_STEP, INF_STEP])
def test_a_bad_step_leaves_every_bit(run, step):
    moved = changed(state_at(run, step), state_at(run, step + 1))
    assert moved == {"step", "refused_steps", "refused_in_a_row"}
    assert len(changed(state_at(run, step + 1), state_at(run, step + 2))) > 20


def test_snapshots_are_the_teachers_backbone(run):
    assert sorted(path.name for path in (run / "snapshots").iterdir()) == ["2", "4"]
    part = teacher_part(wanted().teacher["backbone"])
    snapshot = read_state(run / "snapshots" / "4", part)["teacher"]["backbone"]
    for name, leaf in trees.flatten(state_at(run, 4).teacher["backbone"]).items():
        np.testing.assert_array_equal(trees.flatten(snapshot)[name], leaf, err_msg=name)


def test_the_bundle_knows_its_step(run):
    bundle = json.loads((run / "bundles" / f"step_{NAN_STEP}" / "bundle.json").read_text())
    assert bundle["step"] == bundle["checkpoint"] == NAN_STEP
    assert len(bundle["records"]) == BATCH and bundle["records"][0].startswith("scenes/train/")
    assert bundle["metrics"]["total_loss"] == "nan" and bundle["metrics"]["refused_steps"] == 1
    assert bundle["run"]["config"]["train"]["steps"] == STEPS


def replayed(bundle: Path) -> dict[str, Any]:
    result = replay.replay(bundle)
    assert result["refused"]
    assert {k: str(v) for k, v in result["metrics"].items()} == {
        k: str(v) for k, v in result["metrics_then"].items()
    }
    return result


def test_that_it_is_refused_again_is_said_before_its_tensors_are_looked_at(
    run, monkeypatch, caplog
):
    """Which may need more memory than there is. What is looked at is the state before the step."""
    seen = []

    def look(state, batch):
        seen.append(state)
        raise MemoryError

    monkeypatch.setattr(replay, "step_findings", lambda config: look)
    with pytest.raises(MemoryError):
        replay.replay(run / "bundles" / f"step_{INF_STEP}")
    assert f"step {INF_STEP} is not finite, as then" in caplog.text
    assert changed(state_at(run, INF_STEP), seen[0]) == {"refused_steps", "refused_in_a_row"}


def test_a_gram_teacher_is_put_back_that_the_refused_step_replaced():
    zero = jnp.zeros((), jnp.int32)
    now = TrainState(zero + 5, {}, {}, (), None, zero, zero, gram_teacher={"w": jnp.ones(2)})
    for refresh, kept in ((Refresh(load_step=6), True), (Refresh(load_step=7), False)):
        old = replay.gram_teacher_to_keep(now, 5, refresh)
        after = now._replace(step=zero + 6, gram_teacher={"w": jnp.zeros(2)})
        again = replay.before_refusal(after, 5, {}, old)
        assert not changed(now._replace(gram_teacher=None), again._replace(gram_teacher=None))
        assert again.gram_teacher["w"].tolist() == [float(kept)] * 2


def test_only_the_refused_of_several_students_are_looked_at():
    zero = jnp.zeros((), jnp.int32)
    one = TrainState(zero, {}, {}, (), None, zero, zero)
    state = Students(zero + 6, {"small": one, "wide": one}, {})
    metrics = {"small/finite": 1.0, "wide/finite": 0.0}
    again = replay.before_refusal(state, 5, metrics, None)
    assert int(again.step) == 5 and list(again.students) == ["wide"]


@pytest.mark.slow
def test_nan_after_normalisation_is_named(run):
    first, *others = replayed(run / "bundles" / f"step_{NAN_STEP}")["findings"]
    assert first == ("inputs", "local_crops", 2 * BATCH, 0, first.size)
    assert others[0].stage == "student modules" and others[0].name.startswith("backbone/embed")
    assert "student gradients" in {one.stage for one in others}
    assert "teacher modules" not in {one.stage for one in others}


@pytest.mark.slow
def test_an_infinite_gradient_is_named(run):
    """Also when the run has deleted the checkpoint: the bundle has its own."""
    moved = run.parent / "moved"
    shutil.copytree(run / "bundles" / f"step_{INF_STEP}", moved)
    result = replayed(moved)
    assert [one[:4] for one in result["findings"]] == [
        ("student gradients", "dino_head/mlp_1/kernel", 0, 1)
    ]
    text = replay.tell(result)
    assert text.startswith(
        f"step {INF_STEP}: not finite, as then; all metrics as then\nfirst: dino"
    )


@pytest.mark.slow
def test_an_exponent_bit_of_a_weight(run, tmp_path):
    """The last checkpoint with one bit flipped and digests to match, as if memory had failed."""
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    state = jax.device_get(state_at(run, STEPS - 1))
    weight = np.array(state.student["backbone"]["blocks"]["mlp"]["fc1"]["kernel"])
    weight[1, 2, 3] = 1.0
    weight.view(np.uint32)[1, 2, 3] ^= 1 << 30  # the highest bit of its exponent
    assert np.isinf(weight[1, 2, 3]) and weight.dtype == np.float32
    state.student["backbone"]["blocks"]["mlp"]["fc1"]["kernel"] = weight
    with Checkpoints(workdir / "checkpoints", every_steps=1) as checkpoints:
        checkpoints.delete_after(STEPS - 2)
        checkpoints.save(STEPS - 1, jax.device_put(state))
    summary = train(tiny(), str(workdir))
    assert summary["nonfinite_steps"] == 3
    moved = changed(state_at(workdir, STEPS - 1), state_at(workdir, STEPS))
    assert moved == {"step", "refused_steps", "refused_in_a_row"}
    first, *others = replayed(workdir / "bundles" / f"step_{STEPS - 1}")["findings"]
    assert first[:4] == ("state", "student/backbone/blocks/mlp/fc1/kernel[1]", 0, 1)
    modules = [one.name for one in others if one.stage == "student modules"]
    assert modules[0] == "backbone/blocks/mlp/fc1[1]"
