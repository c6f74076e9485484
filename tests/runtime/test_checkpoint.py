"""Checkpoints: bits survive donation, other meshes and killed processes."""

import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dinojax import mesh
from dinojax.runtime import checkpoint
from dinojax.runtime.checkpoint import Checkpoints, abstract
from dinojax.runtime.stored_state import read_state
from dinojax.ssl.state import Centers, TrainState, init_state
from dinojax.training.safety import teacher_part

CENTERS = Centers(jnp.arange(3.0), jnp.arange(5.0))


def make_state(centers=None, on=None) -> TrainState:
    """A small state with stacked, split, bf16 and scalar leaves, all of them distinct."""
    key = jax.random.key(0)
    student = {
        "backbone": {"blocks": {"w": jax.random.normal(key, (2, 64, 64))}},
        "dino_head": {"bias": jax.random.normal(key, (3,), jnp.bfloat16)},
    }
    state = init_state(student, optax.scale_by_adam().init(student), centers)
    state = state._replace(
        step=jnp.int32(7),
        teacher=jax.tree.map(lambda x: x + 1, student),
        moments=state.moments._replace(mu=jax.tree.map(lambda x: x * 2, student)),
    )
    return jax.device_put(state, mesh.shardings(on or mesh.make_mesh(2, 4), state))


def open_at(path, every_steps=1, keep_last=10, keep_every_steps=None):
    return Checkpoints(
        path, every_steps=every_steps, keep_last=keep_last, keep_every_steps=keep_every_steps
    )


def abstract_on(state, on):
    return abstract(state, mesh.shardings(on, state))


def assert_same_bits(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("centers", [None, CENTERS])
def test_restores_bits_and_structure_on_another_mesh(tmp_path, centers):
    state, other = make_state(centers), mesh.make_mesh(1, 8)
    with open_at(tmp_path) as checkpoints:
        checkpoints.save(7, state)
        restored = checkpoints.restore(abstract_on(state, other), 7)
    assert_same_bits(restored, state)
    assert restored.teacher["backbone"]["blocks"]["w"].sharding.mesh.shape["fsdp"] == 8
    assert isinstance(restored, TrainState)


@pytest.mark.parametrize("devices", [1, 8])
def test_state_may_be_donated_as_soon_as_saving_returns(tmp_path, devices):
    """Large enough that the files are written after the step has run."""
    on = mesh.make_mesh(devices, devices=jax.devices()[:devices])
    state = {"w": jax.device_put(jnp.full((8, 512, 512), 3.0, "float32"), mesh.batch_sharding(on))}
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)

    def buffers(tree):
        return {s.data.unsafe_buffer_pointer() for s in tree["w"].addressable_shards}

    copy = jax.tree.map(jnp.copy, state)
    before = buffers(copy)
    assert before == buffers(step(copy))  # the step does overwrite what it is given
    with open_at(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        after = jax.block_until_ready(step(state))
        restored = checkpoints.restore(abstract_on(after, on), 1)
    assert np.unique(np.asarray(restored["w"])).tolist() == [3.0]


def test_saves_when_due_and_keeps_what_was_asked(tmp_path):
    state = {"w": jnp.zeros(3)}
    with open_at(tmp_path, every_steps=2, keep_last=2, keep_every_steps=6) as checkpoints:
        due = [step for step in range(1, 15) if checkpoints.is_due(step)]
        assert due == list(range(2, 15, 2))
        assert all(checkpoints.save(step, state) for step in due)
        assert checkpoints.save(15, state) and not checkpoints.save(15, state)
    assert sorted(map(int, os.listdir(tmp_path))) == [6, 12, 14, 15]


def test_restores_a_chosen_step(tmp_path):
    with open_at(tmp_path) as checkpoints:
        assert checkpoints.steps() == []
        for step in (9, 10):
            checkpoints.save(step, {"w": jnp.full(3, float(step))})
    on = mesh.make_mesh()
    with open_at(tmp_path) as checkpoints:
        assert checkpoints.steps() == [9, 10]
        want = abstract_on({"w": jnp.zeros(3)}, on)
        assert checkpoints.restore(want, 10)["w"][0] == 10
        assert checkpoints.restore(want, 9)["w"][0] == 9
        with pytest.raises(FileNotFoundError, match=r"no checkpoint 3 in .*; use one of \[9, 10\]"):
            checkpoints.restore(want, 3)


def test_relative_directories_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_at("checkpoints") as checkpoints:
        checkpoints.save(1, {"w": jnp.zeros(3)})
    assert os.listdir("checkpoints") == ["1"]


KILLED = """
import os, sys
import jax.numpy as jnp
from dinojax.runtime.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1], every_steps=1, keep_last=5)
checkpoints.save(1, {"w": jnp.zeros(3)})
checkpoints.wait()
checkpoints.save(2, {"w": jnp.zeros(2**26)})
while len(os.listdir(sys.argv[1])) < 2:
    pass
os._exit(9)  # in the middle of writing 256 MB
"""


def test_what_a_killed_process_left_is_not_a_checkpoint(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True)
    assert killed.returncode == 9, killed.stderr.decode()
    assert len(os.listdir(tmp_path)) == 2 and "2" not in os.listdir(tmp_path)
    with open_at(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert checkpoints.save(2, {"w": jnp.ones(3)})
        assert checkpoints.steps() == [1, 2]
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def test_another_model_is_named(tmp_path):
    on = mesh.make_mesh()
    state = make_state(None, on)
    want = abstract_on(state, on)
    replicated = mesh.replicated(on)

    def leaf(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=replicated)

    centers = Centers(leaf((3,), "float32"), leaf((5,), "float32"))
    with open_at(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        for wrong, message in (
            (want._replace(step=leaf((), "float32")), "step is int32[], not float32[]"),
            (want._replace(step=leaf((2,), "int32")), "step is int32[], not int32[2]"),
            (want._replace(centers=centers), "centers/dino is absent, not float32[3]"),
            (want._replace(teacher={}), "teacher/dino_head/bias is bfloat16[3], not absent"),
        ):
            with pytest.raises(ValueError, match=re.escape(message)):
                checkpoints.restore(wrong, 1)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint\.keep_last=0 must be at least 1"):
        open_at(tmp_path, keep_last=0)
    with open_at(tmp_path) as checkpoints, pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoints.restore({}, 1)


def test_shapes_and_shardings_make_the_abstract_state():
    on = mesh.make_mesh(1, 8)
    state = make_state(CENTERS, on)
    want = abstract_on(state, on)
    same = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype, x.sharding))
    assert same(want) == same(state)


def backbone_on(state, on):
    return teacher_part(abstract_on(state, on).teacher["backbone"])


@pytest.mark.parametrize("kind", ["checkpoint", "snapshot"])
def test_the_teacher_alone_from_either_kind_onto_another_mesh(tmp_path, kind):
    """Of a snapshot nothing else exists, of a checkpoint nothing else is read."""
    state, other = make_state(CENTERS), mesh.make_mesh(1, 8)
    with (
        open_at(tmp_path / "checkpoint") as checkpoints,
        Checkpoints(
            tmp_path / "snapshot",
            every_steps=2,
            part=lambda state: teacher_part(state.teacher["backbone"]),
        ) as snapshots,
    ):
        for step in (7, 8, 9):  # side by side
            checkpoints.save(step, state)
            snapshots.save(step, state)
        assert checkpoints.steps() == snapshots.steps() == [7, 8, 9]
    read = read_state(tmp_path / kind / "8", backbone_on(state, other), part=True)
    assert_same_bits(read, teacher_part(state.teacher["backbone"]))
    assert read["teacher"]["backbone"]["blocks"]["w"].sharding.mesh.shape["fsdp"] == 8
    with pytest.raises(ValueError, match=r"student/.* is .*, not absent|is absent, not float32"):
        read_state(tmp_path / "snapshot" / "8", abstract_on(state, other))


def test_a_part_that_was_not_saved_is_named(tmp_path):
    state = make_state()
    with open_at(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    wrong = {"teacher": {"backbone": {"x": abstract_on(state, mesh.make_mesh()).step}}}
    with pytest.raises(ValueError, match=r"teacher/backbone/x is absent, not int32\[\]"):
        read_state(tmp_path / "1", wrong, part=True)


def test_later_checkpoints_can_be_deleted(tmp_path):
    with open_at(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"w": jnp.full(3, float(step))})
        checkpoints.delete_after(1)
        assert checkpoints.steps() == [1]
        assert checkpoints.save(2, {"w": jnp.zeros(3)})
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def test_a_listing_that_is_old_is_read_again(tmp_path, monkeypatch):
    """Process 0 has set 2 aside; this one still sees it, for a second."""
    with open_at(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"w": jnp.zeros(3)})
    monkeypatch.setattr(checkpoint, "gather", lambda name, own: ["[1]", own])
    rename = lambda seconds: (tmp_path / "2").rename(tmp_path / "2.damaged")  # noqa: E731
    monkeypatch.setattr(checkpoint.time, "sleep", rename)
    with open_at(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert checkpoints.save(2, {"w": jnp.zeros(3)})
