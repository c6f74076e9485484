"""Damage of every kind is recognised, named and passed over; the checkpoint before is used."""

import gc
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from orbax.checkpoint.checkpoint_manager import CheckpointManager

from dinojax.data.threads import StorageError
from dinojax.runtime import stored_state
from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.errors import CheckpointError

# Where the reading of one array fails, Orbax drops the coroutines of the others.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def dropped_here() -> Iterator[None]:
    """And not while another test runs."""
    yield
    gc.collect()


def state(step: int):
    """Noise, so that nothing is compressed away."""
    w = jax.random.normal(jax.random.key(step), (64, 64))
    return {"w": w, "b": jnp.arange(3, dtype="bfloat16"), "step": jnp.int32(step)}


def abstract():
    on = state(0)["w"].sharding
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on), state(0))


def open_at(path) -> Checkpoints:
    return Checkpoints(path, every_steps=1, keep_last=9)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Steps 1 and 2."""
    path = tmp_path_factory.mktemp("saved")
    with open_at(path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step))
    return path


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """Warnings of this package; Orbax has its own."""
    lines: list[str] = []

    def warning(text: str, *args) -> None:
        if "dinojax" in sys._getframe(1).f_code.co_filename:
            lines.append(text % args)

    monkeypatch.setattr(logging, "warning", warning)
    return lines


def arrays(step: Path) -> Path:
    """The file with the arrays' values."""
    return max((step / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


def flip_a_bit(step: Path) -> None:
    path = arrays(step)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncate(path: Path, size: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * size)])


def keep_only(step: Path, name: str) -> None:
    for path in step.iterdir():
        if path.name != name:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def change_metadata(step: Path, change) -> None:
    path = step / "_CHECKPOINT_METADATA"
    described = json.loads(path.read_text())
    change(described["custom_metadata"]["digests"])
    path.write_text(json.dumps(described))


def arrays_of_another_step(step: Path) -> None:
    shutil.rmtree(step / "state")
    shutil.copytree(step.parent / "1" / "state", step / "state")


def a_file_instead(step: Path) -> None:
    shutil.rmtree(step / "state")
    (step / "state").write_text("not a directory")


DAMAGE = {
    "arrays deleted": lambda step: arrays(step).unlink(),
    "arrays truncated": lambda step: truncate(arrays(step)),
    "arrays of no length": lambda step: truncate(arrays(step), 0),
    "one bit flipped": flip_a_bit,
    "index deleted": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
    "index truncated": lambda step: truncate(step / "state" / "manifest.ocdbt"),
    "metadata of no length": lambda step: truncate(step / "_CHECKPOINT_METADATA", 0),
    "tree of no length": lambda step: truncate(step / "state" / "_METADATA", 0),
    "tree deleted": lambda step: (step / "state" / "_METADATA").unlink(),
    "empty directory": lambda step: keep_only(step, "nothing"),
    "digests alone": lambda step: keep_only(step, "_CHECKPOINT_METADATA"),
    "state a file": a_file_instead,
    "digests cut": lambda step: change_metadata(step, lambda d: d.pop("w")),
    "digests of others": lambda step: change_metadata(step, lambda d: d.update(w="0" * 16)),
    "arrays of another step": arrays_of_another_step,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_one_before_is_used(saved, tmp_path, said, kind):
    path = tmp_path / "checkpoints"
    shutil.copytree(saved, path)
    DAMAGE[kind](path / "2")
    with open_at(path) as checkpoints:
        step, restored = checkpoints.restore_newest(abstract())
        assert step == int(restored["step"]) == 1
        np.testing.assert_array_equal(restored["w"], state(1)["w"])
        assert len(said) == 1 and said[0].startswith(f"skipped: checkpoint {path}/2 "), said
        assert checkpoints.save(2, state(2))  # the run comes by again
    assert sorted(os.listdir(path)) == ["1", "2", "2.damaged"]
    with open_at(path) as checkpoints:
        step, restored = checkpoints.restore_newest(abstract())
        assert step == 2
        np.testing.assert_array_equal(restored["w"], state(2)["w"])
    assert len(said) == 1


def test_files_that_nobody_can_open(saved, tmp_path, said, monkeypatch):
    """Played, because root may open everything."""
    path = tmp_path / "checkpoints"
    shutil.copytree(saved, path)
    load = stored_state.ocp.load

    def forbidden(path: str, *args, **options):
        if path.endswith("/2"):
            raise PermissionError(13, "Permission denied", f"{path}/state/manifest.ocdbt")
        return load(path, *args, **options)

    monkeypatch.setattr(stored_state.ocp, "load", forbidden)
    words = r"/2 cannot be read \(PermissionError: \[Errno 13\] Permission denied.*or rename its"
    with open_at(path) as checkpoints, pytest.raises(StorageError, match=words):
        checkpoints.restore_newest(abstract())
    assert sorted(os.listdir(path)) == ["1", "2"] and not said


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(5, "Input/output error"), StorageError),
        (ValueError("UNAVAILABLE: Error opening file"), StorageError),
        (RuntimeError("RESOURCE_EXHAUSTED: Too many open files"), RuntimeError),
        (ValueError("DATA_LOSS: checksum"), CheckpointError),
        (FileNotFoundError(2, "No such file"), CheckpointError),
    ],
)
def test_whose_fault_it_is(saved, monkeypatch, error, kind):
    monkeypatch.setattr(stored_state.ocp, "load", Mock(side_effect=error))
    with pytest.raises(kind) as raised:
        stored_state.read_state(saved / "2", abstract())
    assert raised.type is kind


@pytest.mark.parametrize(("by_storage", "kind"), [(True, StorageError), (False, CheckpointError)])
def test_it_is_the_same_on_the_other_processes(saved, monkeypatch, by_storage, kind):
    answers = {"checkpoint": json.dumps([by_storage, "why"])}
    monkeypatch.setattr(stored_state, "gather", lambda name, own: [own, answers.get(name, own)])
    with pytest.raises(kind, match=r"/2 fails on process 1: why"):
        stored_state.read_state(saved / "2", abstract())


def test_another_model_is_no_damage(saved, tmp_path, said):
    path = tmp_path / "checkpoints"
    shutil.copytree(saved, path)
    other = {**abstract(), "more": abstract()["b"]}
    with open_at(path) as checkpoints, pytest.raises(ValueError, match=r"2 holds another model"):
        checkpoints.restore_newest(other)
    assert sorted(os.listdir(path)) == ["1", "2"] and not said


def test_what_is_no_checkpoint_is_left_alone(saved, tmp_path, said):
    path = tmp_path / "checkpoints"
    shutil.copytree(saved, path)
    (path / "notes.txt").write_text("mine")
    (path / "7").write_text("a file")
    (path / "best").mkdir()
    shutil.copytree(path / "2", path / "2.copy")
    before = sorted(os.listdir(path))
    with open_at(path) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.restore_newest(abstract())[0] == 2
    assert sorted(os.listdir(path)) == before and not said


def test_none_that_can_be_used_is_an_error_each_time(saved, tmp_path, said):
    path = tmp_path / "checkpoints"
    shutil.copytree(saved, path)
    flip_a_bit(path / "1")
    truncate(path / "2" / "_CHECKPOINT_METADATA", 0)
    for _ in range(2):
        words = r"no checkpoint in \S+ can be used: .*/2 is damaged.*/1 .*use another workdir"
        with open_at(path) as checkpoints, pytest.raises(CheckpointError, match=words):
            checkpoints.restore_newest(abstract())
    assert sorted(os.listdir(path)) == ["1", "2"]
    for name in "12":
        (path / name).rename(path / f"{name}.damaged")
    with open_at(path) as checkpoints, pytest.raises(CheckpointError, match=r"all are \.damaged"):
        checkpoints.restore_newest(abstract())


def test_a_save_that_never_finished_is_no_checkpoint(saved, tmp_path, said):
    path = tmp_path / "checkpoints"
    shutil.copytree(saved / "1", path / "1.orbax-checkpoint-tmp")
    with open_at(path) as checkpoints:
        assert checkpoints.restore_newest(abstract()) is None
        checkpoints.delete_after(0)
    assert said == [f"{path}/1.orbax-checkpoint-tmp is half-written: deleted"]
    assert not os.listdir(path)


def test_a_failure_in_the_background_is_loud_at_the_next_check(tmp_path, monkeypatch):
    go = threading.Event()
    finalize = CheckpointManager._finalize

    def fail(self, *args):
        go.wait(10)
        finalize(self, *args)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointManager, "_finalize", fail)
    words = r"checkpoint 1 cannot be written to .*No space left.*repair the storage"
    with open_at(tmp_path) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.check()  # still on its way
        go.set()
        with pytest.raises(CheckpointError, match=words):
            for _ in range(1000):
                checkpoints.check()
                time.sleep(0.01)
