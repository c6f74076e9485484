"""What the guardian does to a training: with a real monitor, and a collapse for it to see."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest
from recorded import PLAIN
from trained_runs import small_config

from dinojax import mesh as meshes
from dinojax import train as app
from dinojax.config import Config
from dinojax.runtime import exits, stored_state
from dinojax.runtime.alarms import RULES
from dinojax.runtime.errors import AlarmedError
from dinojax.training import attempt

STEPS, EVERY, BLINDED = 12, 4, 5
"""Step 5 leaves networks that see nothing. Evaluations at 0, 4, 8, 12; checkpoints every 2."""


def config(action: str, watched: str) -> Config:
    """Other rules say little of so short a run."""
    return small_config(
        **PLAIN,
        train__steps=STEPS,
        knn__every_steps=EVERY,
        checkpoint__every_steps=2,
        checkpoint__keep_last=9,
        checkpoint__snapshot_every_steps=None,
        guardian__action=action,
        guardian__ignore=tuple(name for name in RULES if name != watched),
    )


def blinded(state):
    """All patches are multiplied by zero."""

    def blind(params):
        embed = params["backbone"]["embed"]
        embed = {**embed, "patch_embed": jax.tree.map(lambda x: 0 * x, embed["patch_embed"])}
        return {**params, "backbone": {**params["backbone"], "embed": embed}}

    return state._replace(student=blind(state.student), teacher=blind(state.teacher))


@jax.jit
def played(state, batch):
    """Hardly a step, and compiled at once: the student grows."""
    student = jax.tree.map(lambda x: 1.01 * x, state.student)
    metrics = {"total_loss": jnp.float32(1), "refused_in_a_row": jnp.int32(0)}
    return state._replace(step=state.step + 1, student=student), metrics


@pytest.fixture(
    scope="module", autouse=True, params=["played", pytest.param("real", marks=pytest.mark.slow)]
)
def steps(request):
    """The steps of every run here, one of them sabotaged; compiled once, for one device."""
    compile_step = attempt.compile_step
    known: list[Any] = [played] if request.param == "played" else []

    def compile_once(*given):
        if not known:
            known.append(compile_step(*given))

        def step(state, batch):
            number = int(state.step)
            state, metrics = known[0](state, batch)
            return blinded(state) if number == BLINDED else state, metrics

        return step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt, "compile_step", compile_once)
        patch.setattr(app, "run_mesh", lambda _: meshes.make_mesh(devices=jax.devices()[:1]))
        yield


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """``(action, rule) -> (exit code, what it said)`` of the command, in one workdir."""
    monkeypatch.setattr(exits, "threading", Mock())  # it would end this process

    def run(action: str, watched: str = "features_alike") -> tuple[int, str]:
        alone = {"coordinator": None, "num_processes": 1, "process_id": None, "allow_change": []}
        given = SimpleNamespace(FLAGS=SimpleNamespace(config=None, workdir=str(tmp_path), **alone))
        monkeypatch.setattr(app, "flags", given)
        monkeypatch.setattr(app, "parse_config", lambda _: config(action, watched))
        try:
            app.main(["train"])
        except SystemExit as left:
            return int(str(left.code)), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


def lines(workdir: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


def told(workdir: Path) -> list[tuple[int, str]]:
    return [(one["step"], one["name"]) for one in lines(workdir, "alarms.jsonl")]


def saved(workdir: Path) -> list[int]:
    return sorted(map(int, os.listdir(workdir / "checkpoints")))


@pytest.mark.slow
def test_stop_saves_and_the_same_command_goes_on(tmp_path, train):
    code, words = train("stop")
    assert code == exits.EXIT_CODES[AlarmedError] == 10
    assert "dinojax.train: stopped by guardian.action='stop' at step 8, features_alike: " in words
    assert "The state after 9 steps is saved." in words
    assert saved(tmp_path) == [2, 4, 6, 8, 9] and not (tmp_path / "summary.json").exists()
    assert train("stop")[0] == 0  # as blind as before
    assert saved(tmp_path) == [2, 4, 6, 8, 9, 10, 12] and told(tmp_path) == [(8, "features_alike")]
    losses = [one["step"] for one in lines(tmp_path, "metrics.jsonl") if "total_loss" in one]
    assert losses == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_rollback_goes_around_what_went_wrong(tmp_path, train, caplog):
    assert train("rollback")[0] == 0
    assert "steps 5 to 7 led to an alarm, features_alike: going back to step 4" in caplog.text
    assert json.loads((tmp_path / "rollbacks.json").read_text()) == [{"first": 4, "end": 8}]
    notes = stored_state.read_notes(tmp_path / "checkpoints" / "12")
    assert notes == {"no_op_steps": [{"first": 4, "end": 8}]}
    assert told(tmp_path) == [(8, "features_alike")]
    metrics = lines(tmp_path, "metrics.jsonl")
    losses = [one["step"] for one in metrics if "total_loss" in one]
    assert losses == [1, 2, 3, 4, 9, 10, 11, 12]
    distance = {one["step"]: one["nn_distance_q50"] for one in metrics if "knn" in one}
    assert distance[8] == distance[4]  # of the same state
    assert distance[12] > 0.5 * distance[4]


@pytest.mark.slow
def test_what_other_batches_do_not_cure_stops(tmp_path, train, monkeypatch):
    """The monitor gets the student for the teacher."""
    make_monitor = app.make_monitor

    def mistaken(*given):
        monitor = make_monitor(*given)
        assert monitor is not None
        return lambda state: monitor(state._replace(teacher=state.student))

    monkeypatch.setattr(app, "make_monitor", mistaken)
    code, words = train("rollback", "teacher_is_student")
    assert code == 10 and "at step 4, teacher_is_student: The distance of" in words
    assert saved(tmp_path) == [2, 4, 5] and not (tmp_path / "rollbacks.json").exists()
    assert train("rollback", "teacher_is_student")[0] == 0
    assert told(tmp_path) == [(4, "teacher_is_student")]
