"""Refused steps leave replay bundles: the first of a row, with the checkpoint before it."""

import json
import os
from unittest.mock import Mock

import jax.numpy as jnp
import pytest

from dinojax.runtime import nonfinite
from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.nonfinite import NonfiniteSteps, Refused
from dinojax.runtime.rollback import RollBack


@pytest.fixture
def run(tmp_path):
    """A workdir with checkpoints 2 and 4, of which only the newest stays."""
    with Checkpoints(tmp_path / "checkpoints", every_steps=2, keep_last=1) as checkpoints:
        for step in (2, 4):
            checkpoints.save(step, {"w": jnp.float32(step)})
        yield tmp_path, checkpoints


def steps_of(workdir, checkpoints, rollback_after=0):
    return NonfiniteSteps(
        *(workdir, checkpoints),
        describe=lambda step: {"told": step},
        rollback_after=rollback_after,
    )


def bundle(workdir, step: int) -> dict:
    return json.loads((workdir / "bundles" / f"step_{step}" / "bundle.json").read_text())


def test_the_first_of_a_row_has_a_bundle(run):
    workdir, checkpoints = run
    take_note = steps_of(workdir, checkpoints)
    for step, in_a_row in ((5, 1), (6, 2), (7, 3), (11, 1)):
        take_note(Refused(step, in_a_row, {"total_loss": float("nan"), "lr": 0.5}))
    assert sorted(os.listdir(workdir / "bundles")) == ["step_11", "step_5"]
    assert bundle(workdir, 5) == {
        **{"step": 5, "told": 5, "metrics": {"total_loss": "nan", "lr": 0.5}},
        "checkpoint": 4,
    }


def test_the_checkpoint_stays_when_the_run_deletes_it(run):
    """At no cost: by hard links."""
    workdir, checkpoints = run
    steps_of(workdir, checkpoints)(Refused(5, 1, {}))
    kept = workdir / "bundles" / "step_5" / "checkpoint"
    names = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file())
    assert names and all((kept / name).stat().st_nlink == 2 for name in names)
    checkpoints.save(6, {"w": jnp.float32(6)})
    assert checkpoints.steps() == [6]
    assert all((kept / name).stat().st_nlink == 1 for name in names)


def test_a_step_before_all_checkpoints_starts_from_nothing(run):
    workdir, checkpoints = run
    steps_of(workdir, checkpoints)(Refused(1, 1, {}))
    assert bundle(workdir, 1)["checkpoint"] is None


def test_bundles_are_limited(run, monkeypatch):
    monkeypatch.setattr(nonfinite, "LIMIT", 2)
    workdir, checkpoints = run
    take_note = steps_of(workdir, checkpoints)
    for step in (10, 20, 30):
        take_note(Refused(step, 1, {}))
    assert sorted(os.listdir(workdir / "bundles")) == ["step_10", "step_20"]


def test_a_bundle_that_cannot_be_written_ends_no_run(run, monkeypatch):
    workdir, checkpoints = run
    full = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr(nonfinite.shutil, "copytree", full)
    take_note = steps_of(workdir, checkpoints)
    take_note(Refused(5, 1, {}))
    assert full.called and not list((workdir / "bundles").glob("step_*"))


def test_a_row_of_k_asks_for_the_way_back(run):
    workdir, checkpoints = run
    take_note = steps_of(workdir, checkpoints, rollback_after=3)
    take_note(Refused(5, 1, {}))
    take_note(Refused(6, 2, {}))
    with pytest.raises(RollBack) as asked:
        take_note(Refused(7, 3, {}))
    assert (asked.value.first, asked.value.end) == (5, 8)
