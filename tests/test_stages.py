"""Stages that begin where an earlier run ended: what they take over, and what they train on."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dinojax import mesh as meshes
from dinojax import train as app
from dinojax import trees
from dinojax.build import build_init
from dinojax.config import Config, default_config, parse_config
from dinojax.initial_state import first_step, make_initial_state
from dinojax.runtime.checkpoint import Checkpoints, abstract
from dinojax.shrink import shrink
from dinojax.ssl.state import TrainState
from dinojax.validation import validate

STEP = 2
NEW = {"student__embed_dim": 32, "train__seed": 1}


def config(**overrides: Any) -> Config:
    given = shrink(default_config())
    given.student.depth = 1
    given.crops.global_crops_size = 32
    given.crops.local_crops_size = 16
    given.train.steps = STEP + 2
    given.knn.every_steps = 0
    given.data.verify_images = 1
    flat = {name.replace("__", "."): value for name, value in overrides.items()}
    given.update_from_flattened_dict(flat)
    return parse_config(given)


def distilling(teacher: str, **overrides: Any) -> Config:
    """A narrower student of a teacher that is `config`'s model."""
    keys = {
        f"distillation__backbone__{name}": value
        for name, value in (("embed_dim", 64), ("depth", 1), ("num_heads", 2))
    }
    for head in ("dino_head", "ibot_head"):
        for name, value in (("n_prototypes", 64), ("hidden_dim", 64), ("bottleneck_dim", 16)):
            keys[f"distillation__{head}__{name}"] = value
    return config(**{**NEW, **keys, "distillation__teacher": teacher, **overrides})


@pytest.fixture(scope="module")
def mesh():
    return meshes.make_mesh(1, 1, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def earlier(tmp_path_factory, mesh) -> tuple[Path, TrainState]:
    """The workdir of a run with a checkpoint, and the state in it: EMA and student differ."""
    workdir = tmp_path_factory.mktemp("earlier")
    state = jax.jit(build_init(config()))()
    state = state._replace(
        step=state.step + STEP,
        teacher=jax.tree.map(lambda x: 1.5 * x, state.teacher),
        moments=jax.tree.map(lambda x: x + 1, state.moments),
    )
    with Checkpoints(workdir / "checkpoints", every_steps=1) as checkpoints:
        checkpoints.save(1, jax.tree.map(np.zeros_like, state))
        checkpoints.save(STEP, state)
    return workdir, jax.device_get(state)


def no_batches(count: int) -> Any:
    raise AssertionError("no heads are to be seeded")


def initial(given: Config, mesh) -> TrainState:
    validate(given, batch_shards=1)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(build_init(given))
        wanted = abstract(shapes, meshes.shardings(mesh, shapes))
        return jax.device_get(make_initial_state(given, wanted, no_batches))


def same(found: Any, expected: Any) -> bool:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_a_stage_starts_from_the_teacher(earlier, mesh):
    """Student and EMA are copies of the EMA there, by the workdir or by one checkpoint of it."""
    workdir, saved = earlier
    state = initial(config(init__from=str(workdir), train__seed=1), mesh)
    assert same(state.teacher, saved.teacher) and same(state.student, saved.teacher)
    assert state.step == 0 and first_step(config(init__from=str(workdir)).init) == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.moments))
    named = initial(config(init__from=f"{workdir}/checkpoints/1"), mesh)
    assert not any(leaf.any() for leaf in jax.tree.leaves(named.teacher))


def test_a_stage_goes_on_with_the_whole_state(earlier, mesh):
    """And a Gram teacher, which there was none of, is a copy of the EMA teacher or comes along."""
    workdir, saved = earlier
    given = {"init__from": str(workdir), "init__resume": True, "gram__use_loss": True}
    for keys, scale in (
        ({"gram__load_ema_step": STEP}, 1),
        ({"gram__teacher": f"{workdir}/checkpoints/1"}, 0),
    ):
        stage = config(**given, **keys)
        assert first_step(stage.init) == STEP
        state = initial(stage, mesh)
        expected = jax.tree.map(lambda x, scale=scale: scale * x, saved.teacher["backbone"])
        assert same(state.gram_teacher, expected)
        assert same(state._replace(gram_teacher=None), saved)


def test_the_frozen_teacher_has_its_own_model(earlier, mesh):
    workdir, saved = earlier
    state = initial(distilling(str(workdir)), mesh)
    assert same(state.frozen_teacher, saved.teacher)
    assert same(state.teacher, state.student)
    widths = [trees.flatten(x)["backbone/norm/scale"].shape for x in (state.student, saved.teacher)]
    assert widths == [(32,), (64,)]
    untrained = initial(distilling("random"), mesh)
    assert not same(untrained.frozen_teacher, saved.teacher)


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"init__from": "{}/none"}, FileNotFoundError, "init.from='.*none' has no checkpoint in"),
        (
            {"init__from": "{}", "init__resume": True, "train__steps": 2},
            ValueError,
            "is at step 2, and train.steps=2 counts from its start",
        ),
        ({"init__from": "{}", "student__embed_dim": 32}, ValueError, "holds another model"),
        (
            {"gram__use_loss": True, "gram__teacher": "{}/none"},
            FileNotFoundError,
            "gram.teacher='.*none' has no checkpoint in",
        ),
    ],
)
def test_what_cannot_be_taken_over(earlier, mesh, keys, error, words):
    keys = {k: v.format(earlier[0]) if isinstance(v, str) else v for k, v in keys.items()}
    with pytest.raises(error, match=words):
        initial(config(**keys), mesh)


def lines_of(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_gram_stage(earlier, mesh, tmp_path, monkeypatch):
    """The training app goes on at the step of the earlier run, anchored to it, and resumes."""
    monkeypatch.setattr(app, "run_mesh", lambda config: mesh)
    keys = {
        "init__from": str(earlier[0]),
        "init__resume": True,
        "gram__use_loss": True,
        "gram__teacher": str(earlier[0]),
        "gram__update_every_steps": STEP + 2,
        "crops__gram_teacher_crops_size": 48,
        "crops__gram_teacher_no_distortions": True,
    }
    summary = app.train(config(**keys), str(tmp_path))
    assert summary["steps"] == STEP + 2 and np.isfinite(summary["loss_last"])
    losses = {line["step"]: line["gram_loss"] for line in lines_of(tmp_path) if "gram_loss" in line}
    assert list(losses) == [STEP + 1, STEP + 2] and min(losses.values()) > 0
    stage = config(**keys)
    shapes = jax.eval_shape(build_init(stage))
    with Checkpoints(tmp_path / "checkpoints", every_steps=1) as checkpoints:
        state = checkpoints.restore(abstract(shapes, meshes.shardings(mesh, shapes)))
    assert same(state.gram_teacher, state.teacher["backbone"])  # refreshed after the last step
    assert not same(state.gram_teacher, earlier[1].teacher["backbone"])


@pytest.mark.slow
def test_two_students_of_one_teacher(earlier, mesh, tmp_path, monkeypatch):
    """In one run of the training app: each of its own size, with its own rate."""
    monkeypatch.setattr(app, "run_mesh", lambda config: mesh)
    students = (("small", ()), ("fast", (("student.embed_dim", 48), ("optim.lr.peak", 1e-2))))
    given = distilling(str(earlier[0]), optim__lr__warmup_steps=0, distillation__students=students)
    validate(given, batch_shards=1)
    summary = app.train(given, str(tmp_path))
    assert summary["steps"] == STEP + 2 and np.isfinite(summary["loss_last"])
    last = [line for line in lines_of(tmp_path) if "total_loss" in line][-1]
    losses = [last[f"{name}/total_loss"] for name in ("small", "fast")]
    assert last["total_loss"] == pytest.approx(np.mean(losses)) and losses[0] != losses[1]

    shapes = jax.eval_shape(build_init(given))
    with Checkpoints(tmp_path / "checkpoints", every_steps=1) as checkpoints:
        state = checkpoints.restore(abstract(shapes, meshes.shardings(mesh, shapes)))
    assert same(state.frozen_teacher, earlier[1].teacher)
    for name, width in (("small", 32), ("fast", 48)):
        one = state.students[name]
        assert not same(one.teacher, one.student)  # the EMA is the student's
        leaves = trees.flatten(one.student)
        assert leaves["backbone/norm/scale"].shape == (width,)
        # Starts at zero, and the students see no masks.
        assert not leaves["backbone/embed/mask_token"].any()
