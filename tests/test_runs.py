"""Runs of the past: what is unreadable or readable today does not change what they saw."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from images import encode, smooth, write_folder
from recorded import (
    BAD,
    BATCH,
    FILES,
    PLAIN,
    STEPS,
    Trained,
    check_step,
    config,
    inputs_only,
    train,
)

from dinojax.recorder import rebuild, uses
from dinojax.runs import Run, open_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    root = tmp_path_factory.mktemp("runs")
    folder = write_folder(root / "images", FILES | BAD)
    return train(root, config(data__source=str(folder), **PLAIN), inputs_only)


def test_steps_run(trained):
    assert trained.run.steps_run == trained.run.steps_read == STEPS


@contextmanager
def file_changed(trained: Trained, name: str, data: bytes) -> Iterator[Run]:
    """The run opened anew while a file holds other bytes."""
    path = trained.folder / name
    before = path.read_bytes()
    try:
        path.write_bytes(data)
        yield open_run(trained.run.workdir)
    finally:
        path.write_bytes(before)


def test_files_repaired_since_change_nothing(trained):
    """The slot showed the substitute. What comes later will show the file."""
    bad = trained.batches[0]["problems"][0].id
    used = list(uses(trained.run, bad, STEPS))
    with file_changed(trained, bad, FILES["00.png"]) as run:
        check_step(trained._replace(run=run), 0)
        assert list(uses(run, bad, STEPS)) == used
        drawn = next(use for use in uses(run, bad, STEPS + 10) if use.step >= STEPS)
        assert rebuild(run, drawn.step, BATCH).ids[drawn.slot] == bad


@pytest.mark.parametrize("damage", [b"", b"junk"], ids=["emptied", "overwritten"])
@pytest.mark.parametrize("kind", ["drawn", "substitute"])
def test_records_lost_since_leave_their_slots_empty(trained, kind, damage):
    """All else stays; nothing else stands in for them."""
    batch, source = trained.batches[0], trained.run.data.source
    stand_ins = {problem.substitute for problem in batch["problems"]}
    names = [source.record_id(index) for index in batch["index"].tolist()]
    name = next(name for name in names if (name in stand_ins) == (kind == "substitute"))
    used = list(uses(trained.run, name, STEPS))
    with file_changed(trained, name, damage) as run:
        seen = rebuild(run, 0, BATCH)
        lost = [slot for slot, shown in enumerate(names) if shown == name]
        assert list(seen.gone) == lost and all(name in cause for cause in seen.gone.values())
        assert seen.ids == names and seen.batch["problems"] == batch["problems"]
        kept = [slot for slot in range(BATCH) if slot not in lost]
        inputs = trained.inputs[0]
        np.testing.assert_array_equal(seen.global_crops[:, kept], inputs.global_crops[:, kept])
        assert list(uses(run, name, STEPS)) == used
        later = next(use for use in uses(run, name, STEPS + 10) if use.step >= STEPS)
        future = rebuild(run, later.step, BATCH)
        assert not future.gone and future.ids[later.slot] != name


def test_a_step_whose_records_are_all_gone(trained):
    folder = trained.folder
    moved = folder.rename(folder.with_name("moved"))
    folder.mkdir()
    try:
        for step in (0, STEPS):
            seen = rebuild(trained.run, step, 2)
            drawn = trained.run.data.order.indices(step, range(2)).tolist()
            assert list(seen.gone) == [0, 1] and (seen.batch["index"] == -1).all()
            if step == STEPS:
                assert seen.ids == [trained.run.data.source.record_id(i) for i in drawn]
    finally:
        folder.rmdir()
        moved.rename(folder)


def test_the_ledger_of_a_run_that_was_killed_before_it_logged(trained, tmp_path):
    """Which of its records were unreadable is known up to the ledger's last step."""
    shutil.copy(trained.run.workdir / "config.json", tmp_path)
    assert (open_run(tmp_path).steps_run, open_run(tmp_path).steps_read) == (0, 0)
    shutil.copy(trained.run.workdir / "quarantine.jsonl", tmp_path)
    last = max(step for step in range(STEPS) if trained.batches[step]["problems"])
    bad = trained.batches[last]["problems"][0].id
    with file_changed(trained, bad, FILES["00.png"]):
        run = open_run(tmp_path)
        assert (run.steps_run, run.steps_read) == (0, last + 1)
        check_step(trained._replace(run=run), last)


def test_slots_at_which_the_run_stopped_are_not_settled(trained, tmp_path):
    """Nothing could be read there, so nothing was shown."""
    shutil.copy(trained.run.workdir / "config.json", tmp_path)
    (drawn,) = trained.run.data.order.indices(0, range(1)).tolist()
    entry = {"step": 0, "slot": 0, "position": 0, "cause": "", "substitute": None}
    lines = [
        {**entry, "attempt": i, "id": trained.run.data.source.record_id(drawn)} for i in (0, 1)
    ]
    (tmp_path / "quarantine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = open_run(tmp_path)
    assert run.ledger == {} and run.steps_read == 0
    assert [use.kind for use in uses(run, lines[0]["id"], 1)][:1] == ["drawn"]


def test_a_ledger_of_another_run(trained, tmp_path):
    shutil.copytree(trained.run.workdir, tmp_path / "run")
    path = tmp_path / "run" / "quarantine.jsonl"
    entry = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({**entry, "substitute": "nobody.png"}) + "\n")
    with pytest.raises(ValueError, match=r"names 'nobody.png' as the substitute at position="):
        rebuild(open_run(tmp_path / "run"), entry["step"], BATCH)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"workdir .* has no config.json; give the --work"):
        open_run(tmp_path)


@pytest.mark.parametrize("name", ["new.png", "00b.png"])
def test_a_file_that_is_gone_or_new(trained, name):
    """All positions mean other records then."""
    path = trained.folder / "00.png"
    path.rename(path.with_name(name))
    try:
        with pytest.raises(ValueError, match=r"holds other records than those .*; restore"):
            open_run(trained.run.workdir)
    finally:
        path.with_name(name).rename(path)


def test_another_image_under_the_same_name(trained):
    """It could be read then and now, but it is not what the model saw."""
    used = trained.run.data.source.record_id(int(trained.batches[0]["index"][0]))
    with (
        pytest.raises(ValueError, match=rf"record '{used}' of .* holds other bytes than when"),
        file_changed(trained, used, encode(smooth(9, 9), "PNG")),
    ):
        pass
