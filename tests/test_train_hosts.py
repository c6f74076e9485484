"""Training in several real processes: one run, which they end together."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import hosts
import numpy as np
import pytest
from hosts import ROOT
from images import encode

from dinojax.runtime import stored_state
from dinojax.runtime.exits import PEER_LOST

STEPS = 4


def app(workdir: Path, **options) -> list[str]:
    """Arguments of the training app: the debug recipe for 2 hosts with 2 devices each."""
    given = {
        **{"mesh.fsdp": 2, "train.draw_group_size": 2, "dino.koleo_group_size": 2},
        **{"train.steps": STEPS, "optim.lr.warmup_steps": 0, "optim.freeze_last_layer_steps": 0},
        **{"knn.every_steps": STEPS, "checkpoint.every_steps": STEPS},
        **{key.replace("__", "."): value for key, value in options.items()},
    }
    return [
        f"--workdir={workdir}",
        f"--config={ROOT}/configs/dinov3_vitl16_in1k.py:debug",
        *(f"--config.{key}={value}" for key, value in given.items()),
    ]


def start_toys(
    workdir: Path, options: dict, env: dict[str, str] | None = None, **last: str
) -> list[subprocess.Popen]:
    """Two of them, running; the second with more of an environment."""
    given = {"knn__every_steps": 0, **options}
    commands = [["tests/toy_train.py", *app(workdir, **given), *flags] for flags in hosts.flags(2)]
    env = env or {}
    return [
        hosts.launch(command, devices=2, env=more)
        for command, more in zip(commands, (env, {**env, **last}), strict=True)
    ]


def toy(workdir: Path, *per_host: dict, env: dict[str, str] | None = None) -> list[hosts.Done]:
    """Processes whose step is nearly nothing, each with its options; the last with `env`."""
    commands = [
        ["tests/toy_train.py", *app(workdir, knn__every_steps=0, **options), *flags]
        for options, flags in zip(per_host, hosts.flags(len(per_host)), strict=True)
    ]
    *others, last = commands
    started = [hosts.launch(command, devices=2) for command in others]
    return hosts.wait([*started, hosts.launch(last, devices=2, env=env)])


def losses(workdir: Path) -> dict[str, list[float]]:
    """By term, of every step; and the scores."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    names = {name for line in lines for name in line if "loss" in name or "knn" in name}
    return {name: [line[name] for line in lines if name in line] for name in sorted(names)}


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    """The same run on four devices of one process, and on two devices of each of two."""
    root = tmp_path_factory.mktemp("hosts")

    def watched(name: str, workdir: Path, *flags: str) -> list[str]:
        return ["tests/watched_train.py", str(root / f"{name}.json"), *app(workdir), *flags]

    one = hosts.launch(watched("one", root / "one"), devices=4)
    interleaved = {"DEVICES": "0 2 1 3"}  # of process 0, of process 1, of process 0, ...
    two = [
        hosts.launch(watched(f"two{i}", root / "two", *flags), devices=2, env=interleaved)
        for i, flags in enumerate(hosts.flags(2))
    ]
    done = hosts.wait([one, *two])
    for process in done:
        assert process.code == 0, process.err
    notes = [json.loads((root / f"{name}.json").read_text()) for name in ("one", "two0", "two1")]
    return root, done, notes


@pytest.mark.slow
def test_two_processes_see_what_one_sees(one_and_two):
    """Records, canvases, crops, masks and draws, though the slots of the hosts interleave."""
    _, _, (one, *two) = one_and_two
    slots = [{key.split()[-1] for key in notes if "slot" in key} for notes in two]
    assert slots == [{"0", "1", "4", "5"}, {"2", "3", "6", "7"}]
    for step in range(STEPS):
        for name in ("global_crops", "local_crops", "masks", "slot 0", "slot 7"):
            assert f"step {step} {name}" in one
    assert two[0].keys() & two[1].keys() == {key for key in one if "slot" not in key}
    for notes in two:
        used = {key: value for key, value in notes.items() if int(key.split()[1]) < STEPS}
        assert used == {key: one[key] for key in used}
    assert one.keys() <= two[0].keys() | two[1].keys()


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(one_and_two):
    root, _, _ = one_and_two
    one, two = losses(root / "one"), losses(root / "two")
    assert len(one["total_loss"]) == STEPS and len(one["knn"]) == 2 and one.keys() == two.keys()
    for name, values in one.items():
        # One image is scored. After few steps images are all alike, and the last bits of their
        # features, in which the runs differ, decide its class.
        last = 1 if "knn" in name else None
        np.testing.assert_allclose(two[name][:last], values[:last], rtol=1e-5, err_msg=name)
        assert len(two[name]) == len(values)


@pytest.mark.slow
def test_the_first_process_speaks_and_writes(one_and_two):
    root, (_, first, second), _ = one_and_two
    assert "knn_trained" in first.out and "4/4" in first.err
    assert "knn" not in second.out and "4/4" not in second.err
    one, two = (sorted(path.name for path in (root / name).iterdir()) for name in ("one", "two"))
    assert (
        one
        == two
        == [".lock", "checkpoints", "config.json", "metrics.jsonl", "summary.json", "tensorboard"]
    )
    assert len(list((root / "two" / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_hosts_with_different_configurations_refuse(tmp_path):
    for done in toy(tmp_path / "run", {"train__seed": 0}, {"train__seed": 1}):
        assert done.code == 2
        assert (
            "the processes of this run disagree: train.seed is 0 on process 0 and 1 on process 1; "
            "start all of them with the same command and the same code"
        ) in done.last_words
    assert not (tmp_path / "run").exists()


def test_hosts_with_different_data_refuse(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for i, folder in enumerate(folders):
        folder.mkdir()
        for name in range(40):
            image = encode(np.full((8, 8, 3), name + i, np.uint8), "PNG")
            (folder / f"{name}.png").write_bytes(image)
    options = [{"data__source": folder, "data__holdout": 0.2} for folder in folders]
    for done in toy(tmp_path / "run", *options):
        assert done.code == 2
        assert "the processes of this run disagree: data fingerprint is " in done.last_words
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        pytest.param(
            "records",
            3,
            "20 of 28 records read until step 6 are unreadable",
            marks=pytest.mark.slow,
        ),
        pytest.param("storage", 4, "the disk is gone", marks=pytest.mark.slow),
        pytest.param("bug", 1, "KeyError: 'nobody", marks=pytest.mark.slow),
    ],
)
def test_one_failing_host_stops_all(tmp_path, failure, code, words):
    """Within seconds, with its exit code and message, although the other waits for its step."""
    options = {"train__steps": 10_000, "data__bad_budget": 0.1}
    first, second = toy(tmp_path, options, options, env={"FAIL": failure})
    assert first.code == second.code == code
    assert first.last_words == second.last_words
    assert second.last_words.startswith(f"dinojax.train: process 1: {words}"), second.err
    assert ("Traceback" in second.err) == (code == 1) and "Traceback" not in first.err
    assert not (tmp_path / "summary.json").exists()
    if failure == "records":
        entries = (tmp_path / "quarantine.1.jsonl").read_text().splitlines()
        assert len(entries) == 20 and not (tmp_path / "quarantine.jsonl").exists()


def values(workdir: Path) -> list[dict]:
    """Everything logged but how fast it was, by step."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    speeds = ("images_per_s", "mfu", "data_wait")
    return [{k: v for k, v in line.items() if k not in speeds} for line in lines]


def wait_for(path: Path, processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + hosts.TIMEOUT_S
    while not path.exists():
        assert all(process.poll() is None for process in processes) and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "other", "killed"), [(4, 2, 2), (2, 4, 1)])
def test_killed_and_restarted_on_other_processes(tmp_path, count, other, killed):
    """One of them; then another number with the same devices, and again as many."""
    long = {"train__steps": 30, "checkpoint__every_steps": 5, "knn__every_steps": 0}

    def start(workdir: Path, count: int) -> list[subprocess.Popen]:
        return [
            hosts.launch(["-m", "dinojax.train", *app(workdir, **long), *flags], devices=4 // count)
            for flags in hosts.flags(count)
        ]

    assert [done.code for done in hosts.wait(start(tmp_path / "whole", count))] == [0] * count
    broken = start(tmp_path / "broken", count)
    wait_for(tmp_path / "broken" / "checkpoints" / "10", broken)
    broken[killed].kill()
    ended = hosts.wait(broken, timeout_s=120)
    codes = {done.code for i, done in enumerate(ended) if i != killed}
    assert codes <= {PEER_LOST, -signal.SIGABRT}, ended  # both in `exits.RESUMABLE`
    assert not (tmp_path / "broken" / "summary.json").exists()
    shutil.copytree(tmp_path / "broken", tmp_path / "others")

    assert [done.code for done in hosts.wait(start(tmp_path / "broken", count))] == [0] * count
    assert [done.code for done in hosts.wait(start(tmp_path / "others", other))] == [0] * other
    assert values(tmp_path / "broken") == values(tmp_path / "whole")
    whole, others = losses(tmp_path / "whole"), losses(tmp_path / "others")
    assert len(whole["total_loss"]) == 30
    for name, expected in whole.items():
        np.testing.assert_allclose(others[name], expected, rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [0, 1])
def test_sigterm_to_one_host_saves_and_ends_all(tmp_path, signalled):
    """After the same step, with the code that says so; then the same command goes on."""
    options = {"train__steps": 10**6, "checkpoint__every_steps": 10**6, "knn__every_steps": 0}
    both = start_toys(tmp_path, options)
    wait_for(tmp_path / "metrics.jsonl", both)
    both[signalled].send_signal(signal.SIGTERM)
    done = hosts.wait(both, timeout_s=120)
    assert [one.code for one in done] == [6, 6], done[signalled].err
    assert "asked to leave after " in done[0].last_words
    assert done[0].last_words == done[1].last_words
    (saved,) = map(int, os.listdir(tmp_path / "checkpoints"))
    assert f"after {saved} steps" in done[0].last_words
    again = start_toys(tmp_path, {**options, "checkpoint__every_steps": saved + 10})
    wait_for(tmp_path / "checkpoints" / str((saved + 10) * 2), again)
    again[signalled].send_signal(signal.SIGTERM)
    first, _ = hosts.wait(again, timeout_s=120)
    assert first.code == 6 and f"resuming from step {saved}\n" in first.err


@pytest.mark.slow
def test_one_host_that_hangs_ends_all_with_their_stacks(tmp_path):
    options = {"train__steps": 10**6, "train__hang_timeout_s": 6.0}
    both = start_toys(tmp_path, options, FAIL="hang")
    for done in hosts.wait(both, timeout_s=200):
        assert done.code == 7, done.err
        assert "no progress for 6 s" in done.last_words and "resumes the run" in done.last_words
        assert "Thread 0x" in done.err and "watchdog.py" in done.err
    assert list(tmp_path.glob("hang.*.txt"))


@pytest.mark.slow
def test_what_one_host_cannot_read_no_host_uses(tmp_path):
    options = {"train__steps": 4, "checkpoint__every_steps": 2}
    assert [done.code for done in hosts.wait(start_toys(tmp_path, options))] == [0, 0]
    (tmp_path / "summary.json").unlink()  # as if it had been killed at the end
    done = hosts.wait(start_toys(tmp_path, options, FAIL="checkpoint"))
    assert [one.code for one in done] == [0, 0], done[1].err
    assert "resuming from step 2\n" in done[0].err
    assert f"skipped: checkpoint {tmp_path}/checkpoints/4 fails on process 1" in done[0].err
    assert "DATA_LOSS" in done[0].err
    names = ["2", "4", "4.damaged"]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == names


@pytest.mark.slow
def test_all_hosts_go_back_together(tmp_path):
    options = {"train__steps": 12, "train__rollback_after": 3}
    options |= {"checkpoint__every_steps": 2, "checkpoint__keep_last": 9}
    done = hosts.wait(start_toys(tmp_path, options, env={"BAD": "5"}))
    assert [one.code for one in done] == [0, 0], done[0].err
    windows = [{"first": 4, "end": 8}]
    assert json.loads((tmp_path / "rollbacks.json").read_text()) == windows
    assert stored_state.read_notes(tmp_path / "checkpoints" / "12") == {"no_op_steps": windows}
    assert os.listdir(tmp_path / "bundles") == ["step_5"]
    logged = [line["step"] for line in values(tmp_path)]
    assert logged == [1, 2, 3, 4, 9, 10, 11, 12]

    # Both replay it together: the real step, which is finite.
    replay = ["-m", "dinojax.replay", str(tmp_path / "bundles" / "step_5"), "--json"]
    both = [hosts.launch([*replay, *flags], devices=2) for flags in hosts.flags(2)]
    first, second = hosts.wait(both)
    assert first.code == second.code == 0, first.err
    told = json.loads(first.out.splitlines()[-1])  # Gloo speaks first
    assert told["step"] == 5 and not told["refused"] and not told["findings"]
    assert told["metrics_then"]["total_loss"] == "nan" and '"step"' not in second.out


def guarded(action: str) -> dict:
    """Options of a run that collapses in step 5, as the evaluation of step 8 shows."""
    saves = {"checkpoint__every_steps": 2, "checkpoint__keep_last": 9}
    return {"train__steps": 16, "knn__every_steps": 4, "guardian__action": action, **saves}


@pytest.mark.slow
def test_an_alarm_stops_all_hosts(tmp_path):
    """After the same step, though one alone has seen it; and the same command goes on."""
    done = hosts.wait(start_toys(tmp_path, guarded("stop"), env={"COLLAPSE": "5"}))
    assert [one.code for one in done] == [10, 10], done[0].err
    assert done[0].last_words == done[1].last_words
    assert "at step 8, rank_collapse: " in done[0].last_words
    assert done[0].last_words.endswith("The state after 9 steps is saved.")
    assert sorted(map(int, os.listdir(tmp_path / "checkpoints"))) == [2, 4, 6, 8, 9]
    done = hosts.wait(start_toys(tmp_path, guarded("stop"), env={"COLLAPSE": "5"}))
    assert [one.code for one in done] == [0, 0], done[0].err
    assert "resuming from step 9\n" in done[0].err
    assert len((tmp_path / "alarms.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_an_alarm_sends_all_hosts_back(tmp_path):
    done = hosts.wait(start_toys(tmp_path, guarded("rollback"), env={"COLLAPSE": "5"}))
    assert [one.code for one in done] == [0, 0], done[0].err
    assert json.loads((tmp_path / "rollbacks.json").read_text()) == [{"first": 4, "end": 8}]
    logged = [line["step"] for line in values(tmp_path) if "total_loss" in line]
    assert logged == [*range(1, 5), *range(9, 17)]
    ranks = {line["step"]: line["rankme"] for line in values(tmp_path) if "rankme" in line}
    assert ranks == dict.fromkeys((0, 4, 8, 12, 16), 40.0)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_host_that_dies_ends_the_others(tmp_path, killed):
    """Process 0 holds the connections of all; the other is missed in the step."""
    both = [
        hosts.launch(["tests/toy_train.py", *app(tmp_path, train__steps=10**6), *flags], devices=2)
        for flags in hosts.flags(2)
    ]
    wait_for(tmp_path / "metrics.jsonl", both)
    both[killed].kill()
    survivor = hosts.wait(both, timeout_s=120)[1 - killed]
    assert survivor.code in {PEER_LOST, -signal.SIGABRT}, survivor.err
