"""A pipeline does the missing work and no other, and no death of its process spoils anything."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import toy_stages
from toy_stages import Note, notes

from dinojax.stages import run as runs
from dinojax.stages.run import StageError, run, survey

PATIENCE_S = 600
"""For anything: a slow machine is no failure."""


def chain(middle: str = "b", **last: object) -> list:
    """A diamond: two stages take the first, and the last takes both."""
    return notes(
        first=Note("a"),
        left=Note(middle, ("stage:first",)),
        right=Note("c", ("stage:first/note.txt",)),
        last=Note("d", ("stage:left", "stage:right"), **last),
    )


def started(workdir: Path) -> list[str]:
    """The stages that were started since the last call."""
    path = workdir / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line.split()[0] for line in lines if line.endswith("begins")]


def note(workdir: Path, name: str) -> str:
    return (workdir / name / "note.txt").read_text()


def test_a_pipeline_that_is_done_does_nothing(tmp_path):
    report = run(chain(), tmp_path)
    assert started(tmp_path) == ["first", "left", "right", "last"]
    assert note(tmp_path, "last") == "d|b|a|c|a"
    assert run(chain(), tmp_path) == report and not started(tmp_path)
    assert [verdict.reason for verdict in survey(chain(), tmp_path)] == [""] * 4


def test_the_report_names_parents_by_their_hashes(tmp_path):
    run(chain(), tmp_path)
    report = json.loads((tmp_path / "pipeline.json").read_text())
    stages = {row["name"]: row for row in report["stages"]}
    artefacts = {row["path"]: row for row in report["artefacts"]}
    assert {row["state"] for row in stages.values()} == {"done"}
    assert stages["last"]["scores"] == {"length": 9}
    wanted = [("stage:left", "left"), ("stage:right", "right")]
    assert [(parent["reference"], parent["hash"]) for parent in stages["last"]["parents"]] == [
        (reference, stages[name]["hash"]) for reference, name in wanted
    ]
    # A path in a folder is named by the hash of what is there.
    assert artefacts["right/note.txt"]["parents"] == [artefacts["first/note.txt"]["hash"]]
    assert artefacts["first/note.txt"]["parents"] == []


def test_a_changed_setting_is_done_anew_with_what_depends_on_it(tmp_path):
    before = run(chain(), tmp_path)
    started(tmp_path)
    verdicts = survey(chain("B"), tmp_path)
    assert [verdict.reason for verdict in verdicts] == [
        "",
        'text was "b" and is "B"',
        "",
        "after left",
    ]
    run(chain("B"), tmp_path)
    assert started(tmp_path) == ["left", "last"] and note(tmp_path, "last") == "d|B|a|c|a"
    # What was there is kept beside it, and taken back with its inputs.
    assert run(chain(), tmp_path) == before and not started(tmp_path)
    assert note(tmp_path, "last") == "d|b|a|c|a"


def test_a_new_key_is_no_change_unless_it_is_set(tmp_path, monkeypatch):
    run(chain(), tmp_path)
    started(tmp_path)
    settings, new = Note.settings, {}
    monkeypatch.setattr(
        Note, "settings", lambda self: {**settings(self), "new": new.get(self.text.strip(), 0)}
    )
    assert [verdict.reason for verdict in survey(chain(), tmp_path)] == [""] * 4
    new["d"] = 1
    assert survey(chain(), tmp_path)[-1].reason == "new was 0 and is 1"


def test_changed_records_are_an_input(tmp_path):
    data = tmp_path / "data"
    data.write_text("old")
    stages = chain(data=str(data))
    run(stages, tmp_path)
    started(tmp_path)
    data.write_text("new")
    assert survey(stages, tmp_path)[-1].reason.startswith("data fingerprint was")
    run(stages, tmp_path)
    assert started(tmp_path) == ["last"]


def test_what_comes_from_outside_is_an_input(tmp_path):
    outside = tmp_path / "weights"
    outside.write_text("x")
    stages = notes(first=Note("a", (str(outside),)), last=Note("b", ("stage:first",)))
    report = run(stages, tmp_path)
    (parent,) = report["stages"][0]["parents"]
    assert parent["reference"] == str(outside)
    started(tmp_path)
    outside.write_text("y")
    run(stages, tmp_path)
    assert started(tmp_path) == ["first", "last"] and note(tmp_path, "last") == "b|a|y"


def test_the_same_outcome_invalidates_nothing(tmp_path):
    run(chain("b"), tmp_path)
    started(tmp_path)
    run(chain(" b "), tmp_path)  # another setting, and a stage that does not care
    assert started(tmp_path) == ["left"]


def test_an_artefact_that_is_gone_or_changed_is_made_again(tmp_path):
    run(chain(), tmp_path)
    started(tmp_path)
    (tmp_path / "left" / "note.txt").unlink()
    assert "left/note.txt is missing" in survey(chain(), tmp_path)[1].reason
    run(chain(), tmp_path)
    assert started(tmp_path) == ["left"]
    (tmp_path / "right" / "note.txt").write_text("forged")
    run(chain(), tmp_path)
    assert started(tmp_path) == ["right"] and note(tmp_path, "right") == "c|a"


@pytest.mark.parametrize("damage", ["cut", "edited", "foreign"])
def test_a_folder_without_a_good_record_is_not_taken(tmp_path, damage):
    """Neither is it deleted: it may be someone's."""
    run(chain(), tmp_path)
    started(tmp_path)
    path = tmp_path / "left" / "stage.json"
    if damage == "cut":
        path.write_text(path.read_text()[:-9])
    elif damage == "edited":
        path.write_text(path.read_text().replace('"text": "b"', '"text": "B"'))
    else:
        path.unlink()
    run(chain(), tmp_path)
    assert started(tmp_path) == ["left"]
    assert (tmp_path / "left.unknown" / "note.txt").read_text() == "b|a"


def test_a_failure_stops_and_the_rest_goes_on_from_there(tmp_path):
    def stages(code: int):
        return notes(
            first=Note("a"),
            fails=Note("b", ("stage:first",), code=code),
            last=Note("c", ("stage:fails",)),
        )

    with pytest.raises(StageError, match="stage fails ended with code 3") as error:
        run(stages(3), tmp_path)
    assert error.value.code == 3 and started(tmp_path) == ["first", "fails"]
    report = json.loads((tmp_path / "pipeline.json").read_text())
    assert [row["state"] for row in report["stages"]] == ["done", "begun", "to come"]
    assert survey(stages(0), tmp_path)[1].reason == "begun, not finished"
    run(stages(0), tmp_path)
    assert started(tmp_path) == ["fails", "last"]


def test_a_stage_that_leaves_nothing_is_not_done(tmp_path, monkeypatch):
    monkeypatch.setattr(Note, "command", lambda self, *_: [sys.executable, "-ISc", ""])
    with pytest.raises(StageError, match=r"stage first ended well, but not all is there: .*note"):
        run(chain(), tmp_path)
    assert survey(chain(), tmp_path)[0].reason == "begun, not finished"


def test_a_name_that_a_stage_has_not_left(tmp_path):
    stages = notes(first=Note("a"), last=Note("b", ("stage:first/other.txt",)))
    with pytest.raises(FileNotFoundError, match=r"stage last: takes='stage:first/other.txt'.*note"):
        run(stages, tmp_path)


class Killed(BaseException):
    """The process ends here."""


def die_at(monkeypatch, operation: int) -> Callable[[], bool]:
    """Let the process end before or after one of its steps; returns whether it came so far."""
    count = 0

    def wrap(function):
        def wrapped(*args, **kwargs):
            nonlocal count
            for place in range(2):
                count += 1
                if count == operation:
                    raise Killed
                if not place:
                    result = function(*args, **kwargs)
            return result

        return wrapped

    for owner, name in (
        (runs, "write_record"),
        (runs, "write_report"),
        (runs.Children, "run"),
        (Path, "rename"),
        (Path, "mkdir"),
    ):
        monkeypatch.setattr(owner, name, wrap(getattr(owner, name)))
    return lambda: count >= operation


def test_killed_anywhere_between_two_steps_of_it(tmp_path):
    """In a pipeline of which one stage was done with other settings before, and one is foreign."""
    expected, operation, died = run(chain("B"), tmp_path / "whole"), 0, True
    hashes = [row["hash"] for row in expected["stages"]]
    while died:
        operation += 1
        workdir = tmp_path / str(operation)
        run(chain("b")[:2], workdir)
        (workdir / "right").mkdir()
        (workdir / "right" / "foreign").touch()
        with pytest.MonkeyPatch.context() as patch:
            reached = die_at(patch, operation)
            with contextlib.suppress(Killed):
                run(chain("B"), workdir)
            died = reached()
        report = run(chain("B"), workdir)
        assert [row["hash"] for row in report["stages"]] == hashes, operation
        assert note(workdir, "last") == "d|B|a|c|a"
        assert (workdir / "right.unknown" / "foreign").exists()
        assert len(list(workdir.glob("left.*"))) == 1
        assert len(started(workdir)) <= 2 + 3 + 1, operation  # the one that it died in, twice
    assert operation > 20


@pytest.mark.slow
def test_real_signals(tmp_path):
    """SIGTERM to the pipeline alone reaches the stage, which leaves; SIGKILL makes it an orphan.

    The next pipeline waits for an orphan instead of doing the same beside it.
    """
    log, errors = tmp_path / "log", tmp_path / "errors"

    def start() -> subprocess.Popen:
        with errors.open("w") as file:  # a pipe would stay open as long as an orphan
            return subprocess.Popen(
                [sys.executable, toy_stages.__file__, "pipeline", str(tmp_path)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stderr=file,
            )

    def wait_for(text: str, path: Path, process: subprocess.Popen) -> None:
        while not path.exists() or text not in path.read_text():
            assert process.poll() is None, errors.read_text()
            time.sleep(0.02)

    process = start()
    wait_for("slow begins", log, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 6
    assert "the same command goes on from here" in errors.read_text()
    assert log.read_text().endswith("slow leaves\n")

    process = start()
    wait_for("slow leaves\nslow begins", log, process)
    process.kill()
    process.wait()
    process = start()
    wait_for("waiting for another dinojax.pipeline", errors, process)
    (tmp_path / "go").touch()
    assert process.wait(PATIENCE_S) == 0, errors.read_text()
    words = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("slow")]
    assert words == ["begins", "leaves", "begins", "ends", "begins", "ends"]
    assert note(tmp_path, "last") == "3|2|1"
