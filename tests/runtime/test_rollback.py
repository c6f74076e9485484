"""Back to a checkpoint and around the bad steps: the same bits, wherever the run is interrupted."""

import contextlib
import itertools
import json
import os
import weakref
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.runtime import rollback
from dinojax.runtime.atomic import replace_text
from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.errors import DivergedError
from dinojax.runtime.loop import Guards, Outcome, run
from dinojax.runtime.metrics import MetricWriter
from dinojax.runtime.nonfinite import NonfiniteSteps
from dinojax.runtime.rollback import (
    RollBack,
    Window,
    after_windows,
    before_windows,
    read_windows,
    run_segments,
)
from dinojax.runtime.throughput import Throughput

STEPS = 24


@jax.jit
def toy_step(state, batch):
    """Batch 100 spoils the weight, after which no step works."""
    bad = state["w"] > 50
    w = jnp.where(bad, state["w"], state["w"] * 0.5 + batch)
    in_a_row = jnp.where(bad, state["in_a_row"] + 1, 0)
    state = {"step": state["step"] + 1, "w": w, "in_a_row": in_a_row}
    return state, {"total_loss": w, "refused_in_a_row": in_a_row, "finite": ~bad}


def initial():
    return {"step": jnp.int32(0), "w": jnp.float32(1), "in_a_row": jnp.int32(0)}


class Killed(BaseException):
    pass


def train(
    workdir, *, bad_batches, every=2, keep=20, after=3, log_every=2, die_at=None, steps=STEPS
):
    """A run of the toy; returns its last weight.

    Args:
        die_at: number of the call to storage (save, delete, window) before which it is killed.
    """
    calls = itertools.count()

    def storage(act):
        def counted(*args, **options):
            if next(calls) == die_at:
                raise Killed
            return act(*args, **options)

        return counted

    on = initial()["w"].sharding
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on), initial())
    with (
        Checkpoints(workdir / "checkpoints", every_steps=every, keep_last=keep) as checkpoints,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(checkpoints, "save", storage(checkpoints.save))
        patch.setattr(checkpoints._orbax, "delete", storage(checkpoints._orbax.delete))
        patch.setattr(rollback, "replace_text", storage(rollback.replace_text))
        nonfinite = NonfiniteSteps(
            workdir, checkpoints, describe=lambda step: {}, rollback_after=after
        )

        def attempt(latest, state, first_step, until):
            assert int(state["step"]) == first_step
            with MetricWriter(workdir, resumed_from=latest) as writer:
                return run(
                    state,
                    first_step=first_step,
                    until=until,
                    total_steps=steps,
                    train_step_at=lambda step: toy_step,
                    batches=(
                        jnp.float32(100 if i in bad_batches else i % 5)
                        for i in itertools.count(first_step)
                    ),
                    evaluate=lambda state: {},
                    evaluate_every=0,
                    series=[checkpoints],
                    writer=writer,
                    throughput=Throughput(
                        first_step,
                        total_steps=steps,
                        images_per_step=1,
                        flops_at=lambda step: 1.0,
                        peak_flops=1.0,
                    ),
                    log_every=log_every,
                    guards=Guards(lambda: False, lambda: None, nonfinite),
                )

        outcome = run_segments(
            attempt,
            resume=lambda: checkpoints.restore_newest(wanted) or (None, initial()),
            restore=lambda step: checkpoints.restore(wanted, step),
            advance=lambda state, step: {**initial(), "step": jnp.int32(step), "w": state["w"]},
            series=[checkpoints],
            step_of=lambda state: int(state["step"]),
            workdir=workdir,
            total_steps=steps,
        )
    assert int(outcome.state["step"]) == steps
    return float(outcome.state["w"])


def expected(skipped, *, bad_batches=()):
    """The weight after all steps but those: what the windows mean."""
    w = np.float32(1)
    for i in range(STEPS):
        if i not in skipped:
            w = w * np.float32(0.5) + np.float32(100 if i in bad_batches else i % 5)
    return float(w)


def test_the_window_reaches_from_the_checkpoint_to_the_last_bad_step(tmp_path):
    """Batch 9 spoils the weight: steps 10 to 12 are refused, and 8 is the checkpoint before."""
    assert train(tmp_path, bad_batches={9}) == expected(range(8, 13))
    assert read_windows(tmp_path) == [Window(8, 13)]
    assert sorted(map(int, os.listdir(tmp_path / "checkpoints"))) == [
        *range(2, 9, 2),
        *range(14, 25, 2),
    ]
    bundle = json.loads((tmp_path / "bundles" / "step_10" / "bundle.json").read_text())
    assert bundle["step"] == 10 and bundle["checkpoint"] == 10
    assert os.listdir(tmp_path / "bundles") == ["step_10"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps)) and not set(steps) & set(range(9, 14))


def test_when_it_is_noticed_makes_no_difference(tmp_path):
    for log_every in (1, 3, 7, 50):
        workdir = tmp_path / str(log_every)
        assert train(workdir, bad_batches={9}, log_every=log_every) == expected(range(8, 13))
        assert read_windows(workdir) == [Window(8, 13)]


@pytest.mark.parametrize("first", [None, 1])
def test_a_second_one_that_comes_at_once_goes_back_further(tmp_path, first):
    """Checkpoints 2 and 4 are spoilt: nothing that follows them is finite.

    The step before 2 was refused as well. It is no part of a row that begins after the window.
    """
    with Checkpoints(tmp_path / "checkpoints", every_steps=2) as checkpoints:
        for step, w, in_a_row in ((first, 2.0, 0), (2, 60.0, 1), (4, 60.0, 0)):
            if step is not None:
                values = {"step": step, "in_a_row": in_a_row}
                counts = {name: jnp.int32(value) for name, value in values.items()}
                checkpoints.save(step, {**counts, "w": jnp.float32(w)})
    if first is None:
        words = r"steps 7 to 9 .* no checkpoint before step 2"
        with pytest.raises(DivergedError, match=words):
            train(tmp_path, bad_batches=set())
    else:
        train(tmp_path, bad_batches=set())
    windows = [Window(2, 7), Window(1, 10)]
    assert read_windows(tmp_path) == windows[: 1 if first is None else 2]


def test_two_apart(tmp_path):
    assert train(tmp_path, bad_batches={5, 15}) == expected([*range(4, 9), *range(14, 19)])
    assert read_windows(tmp_path) == [Window(4, 9), Window(14, 19)]


def test_without_a_checkpoint_there_is_no_way_back(tmp_path):
    with pytest.raises(DivergedError, match="steps 2 to 4 were not finite, and there is no check"):
        train(tmp_path, bad_batches={1}, every=8)


def test_switched_off_the_run_goes_on(tmp_path):
    assert train(tmp_path, bad_batches={9}, after=0) == expected(range(10, 24), bad_batches={9})
    assert not read_windows(tmp_path)


@pytest.mark.parametrize("die_at", range(12))
def test_killed_at_any_call_to_storage(tmp_path, die_at):
    """Saves, deletions and the list of windows; then the same command again."""
    options = {"bad_batches": {9}, "every": 3}
    with contextlib.suppress(Killed):
        train(tmp_path, **options, die_at=die_at)
        assert die_at == 11
    assert train(tmp_path, **options) == expected(range(9, 13))
    assert read_windows(tmp_path) == [Window(9, 13)]


@pytest.mark.parametrize("bad", [False, True])
def test_one_state_at_a_time(tmp_path, bad):
    """On the devices there is no room for two."""
    alive = weakref.WeakSet()

    class State:
        def __init__(self, step: int):
            assert not alive
            self.step = step
            alive.add(self)

    def attempt(latest, state, first, until):
        if first == 2 and bad:
            raise RollBack(3, 6)
        if until == 4 and not bad:
            replace_text(tmp_path / rollback.FILE, "[]")
        return Outcome(state, 1.0)

    series = Mock(spec=Checkpoints, **{"steps.return_value": [1, 2]})
    replace_text(tmp_path / rollback.FILE, "[]" if bad else '[{"first": 4, "end": 7}]')
    run_segments(
        attempt,
        resume=lambda: (2, State(2)),
        restore=State,
        advance=lambda state, step: state,
        series=[series],
        step_of=lambda state: state.step,
        workdir=tmp_path,
        total_steps=STEPS,
    )
    # What was saved further on before the restart, and since then.
    assert [one.args for one in series.delete_after.call_args_list] == [(2,)] * (1 + bad)


def test_windows_by_step():
    windows = [Window(8, 13), Window(6, 15), Window(20, 25), Window(20, 30)]
    assert [after_windows(step, windows) for step in (6, 7, 8, 20)] == [15, 7, 13, 30]
    assert [before_windows(step, windows) for step in (13, 14, 15, 30)] == [8, 14, 6, 20]
    assert before_windows(13, [Window(4, 8), Window(8, 13)]) == 4


def test_fewer_steps_than_are_done_already(tmp_path):
    """They would be saved under the number of another state."""
    train(tmp_path, bad_batches=())
    with pytest.raises(
        ValueError, match=r"for 24 steps, more than train.steps=3; use train.steps=24"
    ):
        train(tmp_path, bad_batches=(), steps=3)
    assert not (tmp_path / "checkpoints" / "3").exists()
