"""Alarms are told once, wherever a run was interrupted, and lead to what is asked for."""

import json
from unittest.mock import Mock

import pytest

from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.guardian import FILE, Guardian, by_student
from dinojax.runtime.metrics import MetricWriter
from dinojax.runtime.rollback import RollBack, Window, read_windows, run_segments

GOOD = {"rankme": 40.0, "teacher_student_distance": 0.1}
BAD = {"rankme": 2.0, "teacher_student_distance": 0.1}
SAME = {"rankme": 40.0, "teacher_student_distance": 0.0}


class Attempt:
    """A guardian and its writer, as in one attempt of a run."""

    def __init__(self, workdir, resumed_from=None, **options):
        given = {"first_step": resumed_from or 0, "total_steps": 1000, "action": "warn", **options}
        self.writer = MetricWriter(workdir, resumed_from=resumed_from)
        self.guardian = Guardian(workdir, self.writer, resumed_from=resumed_from, **given)

    def scored(self, step, scores):
        self.writer.write(step, scores)
        self.guardian.scored(step, scores)

    def logged(self, step, ratio, name="backbone_update_ratio"):
        values = {name: ratio, "total_loss": 1.0}
        self.writer.write(step, values)
        self.guardian.logged(step, values)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.writer.close()


def ledger(workdir):
    path = workdir / FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], name) for line in lines for name in line if name.startswith("alarms/")]


def test_told_once(tmp_path, caplog):
    with Attempt(tmp_path) as attempt:
        for step, scores in ((0, GOOD), (10, BAD), (20, BAD), (30, GOOD), (40, BAD)):
            attempt.scored(step, scores)
        assert attempt.guardian.asked_to_stop() is None
    assert metrics(tmp_path) == [(10, "alarms/rank_collapse")]
    (entry,) = ledger(tmp_path)
    assert (entry["step"], entry["name"], entry["value"]) == (10, "rank_collapse", 0.05)
    assert entry["text"].startswith("RankMe is at 5% of its peak.")
    assert caplog.text.count("step 10, alarm rank_collapse: RankMe is at 5%") == 1


def test_the_past_survives_a_restart(tmp_path):
    """The peak is read from the metrics, and what was told from the list of alarms."""
    with Attempt(tmp_path) as attempt:
        attempt.scored(0, GOOD)
        attempt.logged(5, 0.01)
    with Attempt(tmp_path, resumed_from=5) as attempt:
        attempt.scored(10, BAD)
    assert [entry["step"] for entry in ledger(tmp_path)] == [10]
    with Attempt(tmp_path, resumed_from=15) as attempt:
        attempt.scored(20, BAD)
    assert metrics(tmp_path) == [(10, "alarms/rank_collapse")] and len(ledger(tmp_path)) == 1
    # Killed and resumed before it: the metrics get it again, the list does not.
    with Attempt(tmp_path, resumed_from=5) as attempt:
        attempt.scored(10, BAD)
    assert metrics(tmp_path) == [(10, "alarms/rank_collapse")] and len(ledger(tmp_path)) == 1


def test_a_line_cut_short_does_not_count(tmp_path):
    (tmp_path / FILE).write_text('{"step": 1, "name": "x"}\n{"step": 2, "na')
    with Attempt(tmp_path, resumed_from=9):
        pass


def test_stop(tmp_path):
    with Attempt(tmp_path, action="stop") as attempt:
        attempt.scored(0, GOOD)
        assert attempt.guardian.asked_to_stop() is None
        attempt.scored(10, BAD)
        why = attempt.guardian.asked_to_stop()
    assert why is not None and "guardian.action='stop' at step 10, rank_collapse: RankMe" in why
    # The same command goes on.
    with Attempt(tmp_path, resumed_from=11, action="stop") as attempt:
        attempt.scored(20, BAD)
        assert attempt.guardian.asked_to_stop() is None


def test_steps_stop_a_run_between_evaluations(tmp_path):
    with Attempt(tmp_path, action="rollback") as attempt:  # going back does not lower the rate
        for step in (5, 10, 15):
            assert attempt.guardian.asked_to_stop() is None
            attempt.logged(step, 0.5)
        assert "large_updates" in (attempt.guardian.asked_to_stop() or "")
    assert metrics(tmp_path) == [(15, "alarms/large_updates")]


def test_rollback_is_asked_for_from_the_last_evaluation_on(tmp_path):
    with Attempt(tmp_path, action="rollback") as attempt:
        attempt.scored(0, GOOD)
        attempt.scored(100, GOOD)
        with pytest.raises(RollBack, match="101 to 199 led to an alarm, rank_collapse") as request:
            attempt.scored(200, BAD)
    assert (request.value.first, request.value.end) == (101, 200)
    # From a checkpoint before it the same may happen again, and leads further back.
    with (
        Attempt(tmp_path, resumed_from=50, action="rollback") as attempt,
        pytest.raises(RollBack) as request,
    ):
        attempt.scored(200, BAD)
    assert (request.value.first, request.value.end) == (1, 200)


def test_a_state_that_alarms_again_leads_further_back(tmp_path):
    """The checkpoint of the evaluation before, whose state is evaluated again as that of step 200:
    by now the targets' temperature is another, or it is the third such evaluation."""
    with Attempt(tmp_path) as attempt:
        attempt.scored(0, GOOD)
        attempt.scored(100, {**GOOD, "rankme": 35.0})
    with (
        Attempt(tmp_path, resumed_from=100, first_step=200, action="rollback") as attempt,
        pytest.raises(RollBack) as request,
    ):
        attempt.scored(200, BAD)
    assert (request.value.first, request.value.end) == (100, 200)  # to one before 100


def test_what_going_back_does_not_cure_stops(tmp_path):
    with Attempt(tmp_path, action="rollback") as attempt:
        attempt.scored(0, SAME)
        attempt.scored(100, SAME)
        assert "teacher_is_student" in (attempt.guardian.asked_to_stop() or "")


def test_at_the_end_there_is_nothing_to_save(tmp_path):
    for action in ("stop", "rollback"):
        workdir = tmp_path / action
        with Attempt(workdir, action=action, total_steps=10) as attempt:
            attempt.scored(0, GOOD)
            attempt.scored(10, BAD)
            assert attempt.guardian.asked_to_stop() is None
        assert len(ledger(workdir)) == 1


def test_ignored(tmp_path):
    with Attempt(tmp_path, action="stop", ignore=("rank_collapse",)) as attempt:
        attempt.scored(0, GOOD)
        attempt.scored(10, BAD)
        assert attempt.guardian.asked_to_stop() is None
    assert not ledger(tmp_path)


def test_each_student_has_its_own_alarms(tmp_path):
    def scores(one, other):
        pairs = {"small": one, "large": other}.items()
        return {f"{name}/{key}": value for name, own in pairs for key, value in own.items()}

    with Attempt(tmp_path) as attempt:
        for step, given in enumerate([(GOOD, GOOD), (BAD, GOOD), (BAD, BAD)]):
            attempt.scored(step, scores(*given))
        for step in range(3):
            attempt.logged(step, 0.5, "small/backbone_update_ratio")
    told = [(entry["step"], entry["name"]) for entry in ledger(tmp_path)]
    assert told[:2] == [(1, "small/rank_collapse"), (2, "large/rank_collapse")]
    assert told[2:] == [(2, "small/large_updates")]


def test_names_of_students():
    values = {"loss": 1.0, "vits16/knn": 0.5, "vits16/rankme": 3.0}
    assert by_student(values) == {"": {"loss": 1.0}, "vits16": {"knn": 0.5, "rankme": 3.0}}


def test_going_back(tmp_path, caplog):
    """The window of an alarm is one like all others."""
    saved, calls = [20, 40, 60], []
    series = Mock(spec=Checkpoints)
    series.steps.return_value = saved

    def attempt(latest, state, first, until):
        calls.append((latest, state, first, until))
        if len(calls) == 1:
            raise RollBack(41, 60, "led to an alarm, rank_collapse")
        return "done"

    def advance(state, step):
        return step

    outcome = run_segments(
        attempt,
        resume=lambda: (60, 60),
        restore=lambda step: step,
        advance=advance,
        series=[series],
        step_of=lambda state: state,
        workdir=tmp_path,
        total_steps=100,
    )
    assert outcome == "done" and calls[1] == (40, 60, 60, 100)
    assert read_windows(tmp_path) == [Window(40, 60)]
    assert "steps 41 to 59 led to an alarm, rank_collapse: going back to step 40" in caplog.text
