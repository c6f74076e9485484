"""Runs that begin with a backbone: new heads come first, and then everything is trained."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dinojax import mesh as meshes
from dinojax import train as app
from dinojax import trees
from dinojax.build.inputs import build_inputs
from dinojax.build.loss import build_step_loss
from dinojax.build.step import build_init
from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.config.stages import RecoveryConfig
from dinojax.config.validation import validate
from dinojax.data.pipeline import make_loader
from dinojax.runtime.checkpoint import Checkpoints, abstract
from dinojax.ssl.recovery import SHARES
from dinojax.ssl.state import TrainState
from dinojax.training.compiled_step import global_batches
from dinojax.training.data import open_data
from dinojax.training.initial_state import make_initial_state
from dinojax.training.safety import recovery_teller, teacher_part

STEPS, OPENED = 4, 2


def config(source: Any = None, **overrides: Any) -> Config:
    """A gate that no head passes, and that opens at last; k-means on one batch."""
    given = shrink(default_config())
    given.student.depth, given.student.layerscale, given.student.init_std = 1, 1.0, 0.08
    given.crops.global_crops_size, given.crops.local_crops_size = 32, 16
    given.train.steps, given.optim.lr.warmup_steps = STEPS, 0
    given.train.draw_group_size = 2
    given.optim.freeze_last_layer_steps = 0
    given.knn.every_steps, given.data.verify_images = 0, 1
    given.checkpoint.every_steps, given.checkpoint.keep_last = 1, STEPS + 1
    given.dino.head.n_prototypes = 24  # of 16 CLS features
    if source is not None:
        given.init["from"], given.recovery.max_steps = str(source), OPENED
        given.recovery.seed_batches, given.recovery.warmup_steps = 1, 2
        given.recovery.open_below = 1e-3
    given.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return parse_config(given)


def flat(tree: Any) -> dict[str, np.ndarray]:
    return trees.flatten(jax.device_get(tree))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A snapshot: the backbone of another run, which is larger than at random."""
    folder = tmp_path_factory.mktemp("earlier") / "snapshots"
    state = jax.jit(build_init(config(train__seed=1)))()
    larger = jax.tree.map(lambda x: 3 * x, state.teacher["backbone"])
    with Checkpoints(folder, every_steps=1, part=lambda state: state) as snapshots:
        snapshots.save(5, teacher_part(larger))
    return folder / "5"


def one_device():
    return meshes.make_mesh(1, 1, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def run(source, tmp_path_factory) -> tuple[Path, list[TrainState]]:
    """A workdir of the training app, and its states after 1, 2, .. steps."""
    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "run_mesh", lambda config: one_device())
        app.train(config(source), str(workdir))
    return workdir, states(workdir, config(source))


def states(workdir: Path, given: Config) -> list[TrainState]:
    shapes = jax.eval_shape(build_init(given))
    wanted = abstract(shapes, meshes.shardings(one_device(), shapes))
    with Checkpoints(workdir / "checkpoints", every_steps=1) as saved:
        return [jax.device_get(saved.restore(wanted, step)) for step in range(1, STEPS + 1)]


def changed(before: Any, after: Any) -> set[str]:
    """Names of leaves with other bits."""
    one, other = flat(before), flat(after)
    return {name for name in one if one[name].tobytes() != other[name].tobytes()}


def first_batch(given: Config, mesh=None) -> dict[str, jax.Array]:
    data = open_data(given)
    loader = make_loader(data.source, data.order, canvas_px=given.data.canvas_px)
    placement = meshes.BatchLayout(mesh or one_device(), given.train.batch_size)
    with contextlib.closing(loader):
        return next(global_batches(loader, placement))


def initial(given: Config, mesh) -> TrainState:
    validate(given, batch_shards=1)

    def first_batches(count):
        assert count == 1
        yield first_batch(given, mesh)

    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(build_init(given))
        wanted = abstract(shapes, meshes.shardings(mesh, shapes))
        return make_initial_state(given, wanted, first_batches)


@pytest.fixture(scope="module")
def seeded(source) -> TrainState:
    return initial(config(source), one_device())


@pytest.mark.slow
def test_the_backbone_stays_until_the_gate_opens(run, seeded):
    """To the bit, in student and teacher; heads learn from the first step on."""
    start = jax.device_get(seeded)
    for done, state in enumerate(run[1], start=1):
        for name in ("student", "teacher"):
            before, now = getattr(start, name), getattr(state, name)
            moved = changed(before["backbone"], now["backbone"])
            assert bool(moved) == (done > OPENED), (done, name, moved)
            assert changed(before["dino_head"], now["dino_head"])
            assert changed(before["ibot_head"], now["ibot_head"])
    every = set(flat(start.student["backbone"]))
    assert changed(start.student["backbone"], run[1][-1].student["backbone"]) == every
    assert [int(state.recovery.opened_at) for state in run[1]] == [-1, OPENED, OPENED, OPENED]


@pytest.mark.slow
def test_metrics(run):
    lines = [json.loads(line) for line in (run[0] / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "recovery_open" in line]
    assert [line["recovery_open"] for line in lines] == [0, 0, 1, 1]
    assert [line["backbone_lr_factor"] for line in lines] == [0, 0, 0.5, 1]
    for line in lines:
        assert all(line[name] > 0 for name in SHARES)


@pytest.mark.slow
def test_a_run_resumes_across_the_opening(run, source, tmp_path, monkeypatch):
    """Killed before it, with the same bits after it. The file it began with is no longer needed."""
    workdir, expected = run
    shutil.copytree(workdir, tmp_path / "run")
    shutil.move(source, f"{source}.moved")
    for step in range(OPENED, STEPS + 1):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    monkeypatch.setattr(app, "run_mesh", lambda config: one_device())
    try:
        app.train(config(source), str(tmp_path / "run"))
    finally:
        shutil.move(f"{source}.moved", source)
    again = states(tmp_path / "run", config(source))
    assert not set().union(*(changed(*pair) for pair in zip(expected, again, strict=True)))


@pytest.mark.slow
def test_heads_are_seeded_in_student_and_teacher(seeded, source):
    fresh = flat(jax.jit(build_init(config(source)))().student)
    student, teacher = flat(seeded.student), flat(seeded.teacher)
    assert not changed(seeded.student, seeded.teacher)
    new = {name for name in fresh if fresh[name].tobytes() != student[name].tobytes()}
    backbone = {name for name in fresh if name.startswith("backbone/")}
    # What is zero or one at random is so in the snapshot, or three times as much.
    assert new - backbone == {"dino_head/last_layer", "ibot_head/last_layer"} and new & backbone
    for name in ("dino_head/last_layer", "ibot_head/last_layer"):
        np.testing.assert_allclose(np.linalg.norm(teacher[name], axis=0), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "fsdp", "micro_batches"), [(2, 1, 2), (2, 2, 1)])
def test_seeds_do_not_depend_on_the_mesh(seeded, source, data, fsdp, micro_batches):
    """Nor on micro-batches, in which other images would come first."""
    given = config(source, train__micro_batches=micro_batches)
    mesh = meshes.make_mesh(data, fsdp, devices=jax.devices()[: data * fsdp])
    other = initial(given, mesh)
    for name, leaf in flat(seeded.teacher).items():
        np.testing.assert_allclose(flat(other.teacher)[name], leaf, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_micro_batches_see_the_same(seeded, source):
    """Terms of the gate, in parts of the batch and of the logits, from one state."""
    found = []
    batch = first_batch(config(source))
    for keys in ({}, {"train__micro_batches": 2, "train__prototype_chunk": 5}):
        given = config(source, **keys)
        loss, inputs = build_step_loss(given), build_inputs(given)
        terms = jax.jit(lambda s, b, loss=loss, inputs=inputs: loss.gradients(s, b, inputs)[1])
        found.append(jax.device_get(terms(seeded, batch)))
    assert set(SHARES) <= found[0].keys()
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=2e-5, err_msg=name)


def test_what_is_said_about_the_opening(caplog):
    caplog.set_level("INFO", "absl")
    gate = RecoveryConfig(max_steps=9, patience_steps=3, open_below=0.5)
    values = {
        "recovery_open": 1.0,
        "recovery_opened_at": 9.0,
        "recovery_ready_in_a_row": 1.0,
        "dino_cross_entropy": 0.4,
        "ibot_cross_entropy": 0.9,
    }
    for ready, words in ((1.0, r"NOT ready"), (3.0, "the heads are ready")):
        caplog.clear()
        tell = recovery_teller(gate)
        tell(8, {**values, "recovery_open": 0.0})
        assert not caplog.text
        for step in (10, 11):
            tell(step, {**values, "recovery_ready_in_a_row": ready})
        assert caplog.text.count("trained from step 9 on") == 1 and words in caplog.text
