"""Evaluation and embedding in two real processes: each does its part, and the result is one's."""

import json
import re

import hosts
import pytest
from trained_runs import make_run, small_config

pytestmark = pytest.mark.slow
TASKS = "knn,retrieval,segmentation"
WORKDIRS = "one", "two"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    make_run(workdir, small_config())
    return workdir


def app(run, workdir, *more: str) -> list[str]:
    given = [f"--checkpoint={run}", f"--workdir={workdir}", "--data=scenes:60", f"--tasks={TASKS}"]
    return ["tests/watched_evaluate.py", *given, *more]


def test_two_processes_score_as_one_does(run, tmp_path):
    processes = [hosts.launch(app(run, tmp_path / "one"), devices=2)]
    for flags in hosts.flags(2):
        processes.append(hosts.launch(app(run, tmp_path / "two", *flags), devices=2))
    alone, first, second = hosts.wait(processes)
    for done in (alone, first, second):
        assert done.code == 0, done.err
    one, two = ((tmp_path / name / "scores.json").read_text() for name in ("one", "two"))
    assert one == two
    assert "| knn | top1 |" in first.out and "| knn |" not in second.out
    written = [re.findall(r"writes (\d+) of (\d+) files", done.err) for done in (first, second)]
    assert len(written[0]) == len(written[1]) >= 2  # of train and test
    for (own, count), (others, _) in zip(*written, strict=True):
        assert int(own) + int(others) in (0, int(count)) and int(own) - int(others) in (0, 1)


def test_processes_that_ask_for_different_scores_refuse(run, tmp_path):
    flags = hosts.flags(2)
    commands = [app(run, tmp_path, *flags[0]), app(run, tmp_path, *flags[1], "--image_px=24")]
    for done in hosts.wait([hosts.launch(command, devices=1) for command in commands]):
        assert done.code == 2 and "disagree: --image_px is null on process 0 and 24" in done.err
    assert not list(tmp_path.iterdir())


def test_two_processes_embed_as_one_does(tmp_path):
    port = f"localhost:{hosts.free_port()}"

    def start(folder: str, processes: int, process: int):
        given = [port, str(processes), str(process), str(tmp_path / folder)]
        return hosts.launch(["tests/embed_process.py", *given], devices=2)

    done = hosts.wait([start("one", 1, 0), start("two", 2, 0), start("two", 2, 1)])
    for process in done:
        assert process.code == 0, process.err
        assert process.out.splitlines()[-1].split()[-1] == "features-00004-of-00005.parquet"
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert len(one) == 6 and one == two


def test_two_processes_of_the_stage_embed(run, tmp_path):
    """Leave what one leaves; a stage for one process says so in all of them."""

    def command(stage, workdir, *more):
        config = f"--config={hosts.ROOT}/configs/curation/scenes.py"
        given = [
            *(f"--config.embed.model={run}", "--config.embed.image_px=16"),
            "--config.embed.sources=(('pool', 'scenes:30'), ('test', 'scenes:5'))",
            *("--config.embed.batch_size=4", "--config.embed.shard=7"),
        ]
        return ["-m", "dinojax.curate", stage, config, *given, f"--workdir={workdir}", *more]

    started = [hosts.launch(command("embed", tmp_path / "one"), devices=2)]
    for flags in hosts.flags(2):
        started.append(hosts.launch(command("embed", tmp_path / "two", *flags), devices=2))
    one, first, second = hosts.wait(started)
    for done in (one, first, second):
        assert done.code == 0, done.err
    assert '"rows_in": 30' in first.out and '"rows_in"' not in second.out
    reports = [json.loads((tmp_path / name / "embed/report.json").read_text()) for name in WORKDIRS]
    assert reports[0]["outputs"] == reports[1]["outputs"] and len(reports[0]["outputs"]) == 6
    assert reports[0]["inputs"] == reports[1]["inputs"]
    for done in hosts.wait(
        [hosts.launch(command("dedup", tmp_path / "two", *flags)) for flags in hosts.flags(2)]
    ):
        assert done.code == 2 and "stage 'dedup' runs in one process" in done.err
