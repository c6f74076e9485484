"""The ledger holds what the run's steps met, and the budget stops a run with one clear sentence."""

import json

import pytest
from absl import logging

from dinojax.data.load import Problem
from dinojax.runtime.quarantine import (
    FLOOR,
    BadBudgetError,
    Quarantine,
    allowed,
    ledger_file,
    read_ledger,
)

BATCH = 4


def problem(position: int, attempt: int = 0, substitute: str | None = "good") -> Problem:
    name = f"bad/{position}/{attempt}"
    return Problem(position, attempt, name, f"record {name!r} is broken", substitute)


def batch(step: int, *problems: Problem):
    return {"step": step, "problems": problems}


def run(workdir, batches, *, first_step=0, budget=1.0, **options):
    quarantine = Quarantine(
        workdir, global_batch=BATCH, first_step=first_step, budget=budget, **options
    )
    return list(quarantine.watch(batches))


def positions(workdir):
    return [entry["position"] for entry in read_ledger(workdir)]


def test_a_line_per_failed_read(tmp_path):
    batches = [batch(0), batch(1, problem(6), problem(6, 1)), batch(2)]
    assert run(tmp_path, batches) == batches
    lines = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    common = {"step": 1, "slot": 2, "position": 6, "substitute": "good"}
    assert (
        [json.loads(line) for line in lines]
        == read_ledger(tmp_path)
        == [
            {**common, "attempt": i, "id": f"bad/6/{i}", "cause": f"record 'bad/6/{i}' is broken"}
            for i in (0, 1)
        ]
    )


def test_a_run_without_problems_has_no_ledger(tmp_path):
    run(tmp_path / "run", [batch(0), batch(1)])
    assert not list((tmp_path / "run").iterdir()) and read_ledger(tmp_path / "run") == []


def test_only_consumed_batches_count(tmp_path):
    quarantine = Quarantine(tmp_path, global_batch=BATCH, first_step=0, budget=1.0)
    watched = quarantine.watch(batch(step, problem(BATCH * step)) for step in range(9))
    assert next(watched)["step"] == 0 and positions(tmp_path) == [0]
    assert next(watched)["step"] == 1 and positions(tmp_path) == [0, 4]


def test_resuming_drops_the_steps_that_run_again(tmp_path):
    run(tmp_path, [batch(step, problem(BATCH * step)) for step in range(5)])
    with (tmp_path / "quarantine.jsonl").open("a") as file:
        file.write('{"step": 5, "pos')  # killed in the middle of a line
    Quarantine(tmp_path, global_batch=BATCH, first_step=3, budget=1.0)
    assert positions(tmp_path) == [0, 4, 8]
    run(tmp_path, [batch(3, problem(13))], first_step=3)
    assert positions(tmp_path) == [0, 4, 8, 13]
    Quarantine(tmp_path, global_batch=BATCH, first_step=0, budget=1.0)
    assert positions(tmp_path) == []


def test_processes_write_files_of_their_own(tmp_path):
    for index, position in enumerate((1, 2)):
        run(tmp_path, [batch(0, problem(position))], process_index=index, process_count=2)
    assert [ledger_file(index) for index in (0, 1)] == ["quarantine.jsonl", "quarantine.1.jsonl"]
    assert {path.name for path in tmp_path.iterdir()} == {"quarantine.jsonl", "quarantine.1.jsonl"}
    assert positions(tmp_path) == [1, 2]


def test_fewer_processes_than_before_drop_the_others_later_steps(tmp_path):
    for index in range(2):
        batches = [batch(step, problem(BATCH * step + 2 * index)) for step in range(4)]
        run(tmp_path, batches, process_index=index, process_count=2)
    Quarantine(tmp_path, global_batch=BATCH, first_step=2, budget=1.0)
    assert positions(tmp_path) == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("budget", "reads", "expected"),
    [(0.0, 10**6, 0), (0.01, 100, FLOOR), (0.01, 10**4, 100), (1.0, 8, FLOOR), (1.0, 64, 64)],
)
def test_allowance(budget, reads, expected):
    assert allowed(budget, reads) == expected


def over_budget(workdir, batches, **options) -> str:
    with pytest.raises(BadBudgetError) as error:
        run(workdir, batches, **options)
    return str(error.value)


def test_over_budget_stops_before_the_step(tmp_path):
    """Every step loses all its slots: the floor is reached after four steps and passed at the
    next."""
    batches = [batch(t, *(problem(BATCH * t + s) for s in range(BATCH))) for t in range(9)]
    seen = []
    quarantine = Quarantine(tmp_path, global_batch=BATCH, first_step=0, budget=0.5)
    with pytest.raises(BadBudgetError):
        for item in quarantine.watch(batches):
            seen.append(item["step"])
    assert seen == [0, 1, 2, 3]
    text = over_budget(tmp_path, batches, budget=0.5)
    assert text.startswith(
        "20 of 20 records read until step 4 are unreadable (100.00%), more than "
        "data.bad_budget=0.5 allows: record 'bad/0/0' is broken; record 'bad/1/0' is broken; "
        "record 'bad/2/0' is broken; ...; all are named in "
    )
    assert str(tmp_path / "quarantine.jsonl") in text
    assert "raise data.bad_budget and run the same command again" in text
    assert positions(tmp_path) == list(range(20))  # with the evidence of the step that was stopped


def test_the_share_counts_slots_not_attempts(tmp_path):
    """Of 40 reads one in four slots is lost, each after several attempts; half is allowed."""
    batches = [batch(t, *(problem(BATCH * t, a) for a in range(4))) for t in range(40)]
    assert len(run(tmp_path, batches, budget=0.25)) == 40
    text = over_budget(tmp_path, batches, budget=0.24)
    assert text.startswith("17 of 68 records read until step 16")


def test_a_budget_of_nothing_stops_at_the_first(tmp_path):
    text = over_budget(tmp_path, [batch(0), batch(1, problem(5))], budget=0.0)
    assert text.startswith("1 of 8 records read until step 1 are unreadable (12.50%), more than")


def test_a_resumed_run_remembers_what_it_met(tmp_path):
    """Also on other processes: each judges the slots that are now its own."""
    batches = [batch(t, *(problem(BATCH * t + s) for s in range(2))) for t in range(8)]
    run(tmp_path, batches)
    Quarantine(tmp_path, global_batch=BATCH, first_step=8, budget=0.5)
    more = [batch(8, problem(32), problem(33))]
    assert len(run(tmp_path, more, first_step=8, budget=0.5)) == 1
    assert over_budget(tmp_path, more, first_step=8, budget=0.4).startswith("18 of 36 records")
    halves = {"first_step": 8, "budget": 0.5, "process_count": 2}
    first, second = (
        {"slots": slots, "process_index": i} for i, slots in enumerate([(0, 1), (2, 3)])
    )
    text = over_budget(tmp_path, [batch(8, problem(32))], **first, **halves)
    assert text.startswith("17 of 18 records read until step 8")
    assert run(tmp_path, [batch(8, problem(34))], **second, **halves)


def test_slots_that_two_processes_share_count_once(tmp_path):
    batches = [batch(t, problem(BATCH * t + 1)) for t in range(3)]
    for index in range(2):
        run(tmp_path, batches, process_index=index, process_count=2)
    assert positions(tmp_path) == [1, 5, 9]
    text = over_budget(tmp_path, [batch(3, problem(13))], first_step=3, budget=0.0)
    assert text.startswith("4 of 16 records")


def test_a_slot_without_substitute_stops_whatever_the_budget(tmp_path):
    lost = [problem(5, attempt, substitute=None) for attempt in range(3)]
    text = over_budget(tmp_path, [batch(1, problem(4), *lost)], budget=1.0)
    assert text.startswith(
        "step 1: record 'bad/5/0' is broken, and none of its 2 substitutes can be read either; "
    )
    assert positions(tmp_path) == [4, 5, 5, 5]


def test_the_log_names_the_first_and_then_every_doubling(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    run(tmp_path, [batch(t, problem(BATCH * t)) for t in range(9)])
    assert [line.split(":")[0] for line in said] == ["step 0", "step 1", "step 3", "step 7"]
    assert "record 'bad/12/0' is broken; replaced, as 4 so far: " in said[2]
