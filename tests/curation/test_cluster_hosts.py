"""Clustering in two real processes: each reads its part, and the tables are one's, bit for bit."""

import json
import signal

import curation_files
import hosts
import pytest

from dinojax.runtime.exits import PEER_LOST

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return curation_files.write(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    """The report of one process with four devices."""
    work = tmp_path_factory.mktemp("one")
    (done,) = hosts.wait([hosts.launch(app(config, work), devices=4)])
    assert done.code == 0, done.err
    return json.loads((work / "cluster" / "report.json").read_text())


def app(config, work, *more: str, stage: str = "cluster") -> list[str]:
    return ["tests/dying_curate.py", stage, f"--config={config}", f"--workdir={work}", *more]


def run(config, work, **dies: str) -> list[hosts.Done]:
    """Two processes with two devices each; ``first="3"`` dies in its third step."""
    started = []
    for name, flags in zip(("first", "second"), hosts.flags(2), strict=True):
        env = {"DIES_IN": dies[name]} if name in dies else {}
        started.append(hosts.launch(app(config, work, *flags), devices=2, env=env))
    return hosts.wait(started)


def outcome(work) -> dict[str, str]:
    return json.loads((work / "cluster" / "report.json").read_text())["outputs"]


def test_two_processes_cluster_as_one_does(config, alone, tmp_path):
    first, second = run(config, tmp_path)
    assert first.code == second.code == 0, first.err + second.err
    assert outcome(tmp_path) == alone["outputs"] and len(alone["outputs"]) == 4
    assert '"rows_in": 4000' in first.out and "rows_in" not in second.out


def test_either_is_killed_and_both_run_again(config, alone, tmp_path):
    """While k-means|| looks for candidates, while it picks of these, and in an iteration."""
    for dies, lives, step in (("second", 0, "5"), ("first", 1, "2"), ("second", 0, "4")):
        done = run(config, tmp_path, **{dies: step})
        assert done[1 - lives].code == -signal.SIGKILL
        assert done[lives].code in {PEER_LOST, -signal.SIGABRT}, done[lives].err
        assert (tmp_path / "cluster" / "progress_l1.npz").exists()
    assert [done.code for done in run(config, tmp_path)] == [0, 0]
    assert outcome(tmp_path) == alone["outputs"]


def test_what_two_processes_refuse(config, tmp_path):
    one, other = hosts.flags(2)
    chunks = "--config.cluster.chunk_rows=1000"
    commands = [app(config, tmp_path / "a", *one), app(config, tmp_path / "a", *other, chunks)]
    for done in hosts.wait([hosts.launch(command) for command in commands]):
        assert done.code == 2, done.err
        assert "disagree: cluster.chunk_rows is 1500 on process 0 and 1000" in done.err
    commands = [app(config, tmp_path / "b", *given, stage="sample") for given in hosts.flags(2)]
    for done in hosts.wait([hosts.launch(command) for command in commands]):
        assert done.code == 2, done.err
        assert (
            "stage 'sample' runs in one process and has been started in 2; start it once"
            in done.err
        )
    assert not list(tmp_path.iterdir())
