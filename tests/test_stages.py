"""Stages that begin where an earlier run ended: what they take over, and what they train on."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import mesh as meshes
from dinojax import train as app
from dinojax import trees
from dinojax.build.model import build_model
from dinojax.build.step import build_init
from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.config.validation import validate
from dinojax.runtime.checkpoint import Checkpoints, abstract
from dinojax.runtime.earlier import find_earlier
from dinojax.runtime.loop import Outcome
from dinojax.ssl.state import TrainState
from dinojax.ssl.students import Students
from dinojax.training import attempt
from dinojax.training.frozen_teacher import KEY, teacher_digest, with_teacher, without_teacher
from dinojax.training.initial_state import make_initial_state
from dinojax.training.safety import make_series, teacher_part

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
    with Checkpoints(
        workdir / "snapshots",
        every_steps=1,
        part=lambda state: teacher_part(state.teacher["backbone"]),
    ) as snapshots:
        snapshots.save(1, jax.tree.map(lambda x: 2 * x, state))
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
    assert state.step == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.moments))
    named = initial(config(init__from=f"{workdir}/checkpoints/1"), mesh)
    assert not any(leaf.any() for leaf in jax.tree.leaves(named.teacher))


@pytest.mark.slow
def test_a_stage_goes_on_with_the_whole_state(earlier, mesh):
    """And a Gram teacher, which there was none of, is a copy of the EMA teacher or comes along."""
    workdir, saved = earlier
    given = {"init__from": str(workdir), "init__resume": True, "gram__use_loss": True}
    for keys, scale in (
        ({"gram__load_ema_step": STEP}, 1),
        ({"gram__teacher": f"{workdir}/checkpoints/1"}, 0),
        ({"gram__teacher": f"{workdir}/snapshots/1"}, 2),
    ):
        stage = config(**given, **keys)
        state = initial(stage, mesh)
        expected = jax.tree.map(lambda x, scale=scale: scale * x, saved.teacher["backbone"])
        assert same(state.gram_teacher, expected)
        assert same(state._replace(gram_teacher=None), saved)


@pytest.mark.slow
def test_the_frozen_teacher_has_its_own_model(earlier, mesh):
    workdir, saved = earlier
    state = initial(distilling(str(workdir)), mesh)
    assert same(state.frozen_teacher, saved.teacher)
    assert same(state.teacher, state.student)
    widths = [trees.flatten(x)["backbone/norm/scale"].shape for x in (state.student, saved.teacher)]
    assert widths == [(32,), (64,)]
    untrained = initial(distilling("random"), mesh)
    assert not same(untrained.frozen_teacher, saved.teacher)


@pytest.mark.slow
def test_a_position_table_of_another_grid(tmp_path, mesh):
    """A teacher sees larger crops after its table was resampled as it saw them before."""
    dinov2 = {"student__arch": "vits14", "student__patch_size": 16}
    before = config(**dinov2, student__pos_embed_grid=2)
    saved = jax.jit(build_init(before))()
    with Checkpoints(tmp_path / "checkpoints", every_steps=1) as checkpoints:
        checkpoints.save(STEP, saved)
    keys = {"student__pos_embed_grid": 4, "crops__global_crops_size": 64}
    gram = {"gram__use_loss": True, "gram__teacher": str(tmp_path)}
    after = config(**dinov2, **keys, **gram, init__from=str(tmp_path))
    state = initial(after, mesh)
    assert trees.flatten(state.teacher)["backbone/embed/pos_embed"].shape == (1 + 4**2, 64)
    assert same(state.student, state.teacher)
    assert same(state.gram_teacher, state.teacher["backbone"])
    images = jax.random.normal(jax.random.key(0), (1, 1, 64, 64, 3))
    old, new = (
        build_model(given).backbone.apply({"params": params["backbone"]}, images)[0].patches
        for given, params in (
            (before, saved.teacher),
            (after, jax.tree.map(jnp.asarray, state.teacher)),
        )
    )
    np.testing.assert_allclose(new, old, atol=1e-5)
    table = trees.flatten(saved.teacher)["backbone/embed/pos_embed"]
    assert np.abs(table).max() > 1e-2  # or any table would do


@pytest.mark.slow
def test_a_checkpoint_leaves_the_frozen_teacher_out(earlier, mesh, tmp_path):
    """And it comes back from where it is: the same for a run that goes on."""
    for teacher in (str(earlier[0]), "random"):
        given = distilling(teacher)
        with jax.set_mesh(mesh):
            shapes = jax.eval_shape(build_init(given))
            wanted = abstract(shapes, meshes.shardings(mesh, shapes))
            state = make_initial_state(given, wanted, no_batches)
            with make_series(given.checkpoint, str(tmp_path / Path(teacher).name))[0] as series:
                series.save(1, state)
                saved = series.restore(without_teacher(wanted), 1)
        assert not any("frozen" in name for name in trees.flatten(saved))
        assert same(with_teacher(saved, given, wanted), state)


def test_the_digest_is_of_the_weights(earlier, tmp_path):
    """Wherever they are; another checkpoint has another."""
    workdir, _ = earlier
    digest = teacher_digest(distilling(str(workdir)))
    assert len(digest[KEY]) == 16
    assert teacher_digest(distilling(f"{workdir}/checkpoints/{STEP}")) == digest
    shutil.copytree(workdir, tmp_path / "moved")
    assert teacher_digest(distilling(str(tmp_path / "moved"))) == digest
    assert teacher_digest(distilling(f"{workdir}/checkpoints/1")) != digest
    assert not teacher_digest(distilling("random")) and not teacher_digest(config())


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


@pytest.mark.slow
def test_with_checkpoints_of_its_own_a_run_needs_no_earlier_one(
    earlier, mesh, tmp_path, monkeypatch
):
    """Which may be gone, or further by now."""
    shutil.copytree(earlier[0] / "checkpoints", tmp_path / "run" / "checkpoints")
    monkeypatch.setattr(app, "run_mesh", lambda config: mesh)
    monkeypatch.setattr(attempt, "compile_step", lambda *_: lambda state, batch: (state, {}))
    monkeypatch.setattr(attempt, "run", lambda state, **_: Outcome(state, 1.0))
    given = config(init__from=str(tmp_path / "gone"), init__resume=True)
    assert app.train(given, str(tmp_path / "run"))["steps"] == STEP


@pytest.mark.slow
def test_one_student_of_several(earlier, mesh, tmp_path):
    """By its name behind the path, from a checkpoint or a snapshot; the stages ask for no more."""
    names, (_, one) = ("small", "wide"), earlier
    several = Students(
        one.step,
        {name: one._replace(step=one.step + i) for i, name in enumerate(names)},
        one.teacher,
    )
    series = make_series(config(checkpoint__snapshot_every_steps=1).checkpoint, str(tmp_path))
    for saves in series:
        with saves:
            saves.save(STEP, jax.device_put(several))
    wanted = abstract(one, meshes.shardings(mesh, one))
    found = find_earlier(f"{tmp_path}#wide", "init.from")
    assert found.step == STEP and same(found.read_teacher(wanted.teacher), one.teacher)
    state = found.read({"step": wanted.step, "moments": wanted.moments})
    assert state["step"] == STEP + 1 and same(state["moments"], one.moments)
    snapshot = find_earlier(f"{tmp_path}/snapshots/{STEP}#wide", "gram.teacher")
    backbone = {"backbone": wanted.teacher["backbone"]}
    assert same(snapshot.read_teacher(backbone)["backbone"], one.teacher["backbone"])
    same_teacher = teacher_digest(distilling(str(earlier[0])))
    assert teacher_digest(distilling(f"{tmp_path}#small")) == same_teacher
    for wrong in (str(tmp_path), f"{tmp_path}#large"):
        with pytest.raises(ValueError, match=r"init\.from=.* several students; .*#small, .*#wide"):
            find_earlier(wrong, "init.from")
    with pytest.raises(ValueError, match=r"init\.from='.*#a' is of a run with one student"):
        find_earlier(f"{earlier[0]}#a", "init.from")


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
        state = checkpoints.restore(abstract(shapes, meshes.shardings(mesh, shapes)), STEP + 2)
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
    wanted = without_teacher(abstract(shapes, meshes.shardings(mesh, shapes)))
    with Checkpoints(tmp_path / "checkpoints", every_steps=1) as checkpoints:
        state = checkpoints.restore(wanted, STEP + 2)
    for name, width in (("small", 32), ("fast", 48)):
        one = state.students[name]
        assert not same(one.teacher, one.student)  # the EMA is the student's
        leaves = trees.flatten(one.student)
        assert leaves["backbone/norm/scale"].shape == (width,)
        # Starts at zero, and the students see no masks.
        assert not leaves["backbone/embed/mask_token"].any()


@pytest.mark.slow
def test_a_distilled_run_goes_on_with_its_teacher(earlier, mesh, tmp_path, monkeypatch):
    """Same bits as in one go; a teacher that is another one by then is refused by its key."""
    monkeypatch.setattr(app, "run_mesh", lambda config: mesh)
    teacher, workdir = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(earlier[0], teacher)
    given = distilling(str(teacher), checkpoint__every_steps=2, optim__lr__warmup_steps=0)
    shapes = jax.eval_shape(build_init(given))
    wanted = without_teacher(abstract(shapes, meshes.shardings(mesh, shapes)))

    def final():
        app.train(given, str(workdir))
        with Checkpoints(workdir / "checkpoints", every_steps=1) as checkpoints:
            return jax.device_get(checkpoints.restore(wanted, STEP + 2))

    whole = final()
    shutil.rmtree(workdir / "checkpoints" / str(STEP + 2))
    assert same(final(), whole)
    shutil.rmtree(teacher / "checkpoints" / str(STEP))  # now the workdir's newest is another
    with pytest.raises(ValueError, match=r"weights that distillation\.teacher names were"):
        app.train(given, str(workdir))
