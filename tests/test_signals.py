"""Real processes that get signals: killed at any moment, asked to leave, hanging."""

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from dinojax import mesh as meshes
from dinojax import trees
from dinojax.build import build_init
from dinojax.config import parse_config
from dinojax.runtime.checkpoint import Checkpoints, abstract
from dinojax.runtime.metrics import last_step

ROOT = Path(__file__).parent.parent
RECIPE = f"{ROOT}/configs/dinov3_vitl16_in1k.py:debug"
PATIENCE_S = 600
"""For anything: a slow machine is no failure."""


def command(workdir: Path, **options: object) -> list[str]:
    """Options by dotted key, with ``__`` for the dot."""
    given = {"train__log_every_steps": 1, "knn__every_steps": 0, **options}
    flags = [f"--config.{key.replace('__', '.')}={value}" for key, value in given.items()]
    return [
        *(sys.executable, "-m", "dinojax.train", f"--workdir={workdir}", f"--config={RECIPE}"),
        *flags,
    ]


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Callable[[list[str]], subprocess.Popen]:
    """Starts a command in a process group of its own; compiled programs are kept between them."""
    cache = tmp_path_factory.mktemp("compiled")
    env = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }

    def begin(arguments: list[str]) -> subprocess.Popen:
        options = {"env": env, "cwd": ROOT, "text": True, "start_new_session": True}
        return subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options
        )

    return begin


def wait_until(true: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(process: subprocess.Popen) -> str:
    """What it printed; ends with success."""
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return errors


def final_state(workdir: Path, steps: int) -> dict[str, np.ndarray]:
    recipe = runpy.run_path(f"{ROOT}/configs/dinov3_vitl16_in1k.py")
    shapes = jax.eval_shape(build_init(parse_config(recipe["get_config"]("debug"))))
    layout = meshes.shardings(meshes.make_mesh(), shapes)
    with Checkpoints(workdir / "checkpoints", every_steps=1) as checkpoints:
        state = checkpoints.restore(abstract(shapes, layout), steps)
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(state).items()}


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_any_moment_the_run_ends_with_the_same_bits(tmp_path, start, kills):
    """A save is on its way nearly always; every third process dies before its first step."""
    steps = 6 * (kills + 1)
    options = {"train__steps": steps, "checkpoint__every_steps": 2}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(command(whole, **options)))
    draw = random.Random(kills)
    for kill in range(kills):
        process = start(command(broken, **options))
        begun, target = time.monotonic(), 6 * kill + draw.randint(1, 6)
        if kill % 3 == 2:
            delay = draw.uniform(0, 10)
            wait_until(lambda b=begun, d=delay: time.monotonic() > b + d, process)
        else:
            wait_until(lambda goal=target: last_step(broken) >= goal, process)
            time.sleep(draw.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, kill
    finish(start(command(broken, **options)))
    expected, found = final_state(whole, steps), final_state(broken, steps)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    summaries = [json.loads((path / "summary.json").read_text()) for path in (whole, broken)]
    assert summaries[0]["loss_last"] == summaries[1]["loss_last"]


def test_sigterm_saves_and_leaves_with_its_code(tmp_path, start):
    """The whole group gets it, data workers too, and then again."""
    options = {
        "train__steps": 100_000,
        "checkpoint__every_steps": 50_000,
        "data__num_workers": 1,
    }
    process = start(command(tmp_path, **options))
    wait_until(lambda: last_step(tmp_path) >= 3, process)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 6, errors
    assert errors.splitlines()[-1].startswith("dinojax.train: asked to leave after "), errors
    assert errors.count("SIGTERM: saving after this step") == 1
    (saved,) = map(int, os.listdir(tmp_path / "checkpoints"))
    assert saved >= last_step(tmp_path) >= 3
    again = start(command(tmp_path, **options))
    wait_until(lambda: last_step(tmp_path) > saved, again)
    again.send_signal(signal.SIGTERM)
    _, errors = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 6 and f"resuming from step {saved}\n" in errors, errors


def test_a_run_that_hangs_shows_its_stacks_and_ends(tmp_path):
    """Hanging in native code, as in a collective whose other side has died."""
    script = f"""
import sys, threading, time
from pathlib import Path
from dinojax.runtime.watchdog import Watchdog
with Watchdog(0.5, Path({str(tmp_path)!r}) / "run" / "hang.0.txt") as progress:
    time.sleep(1.0)  # startup may take longer
    def step_that_hangs():
        progress()
        threading.Lock().acquire() and time.sleep(1000)
    for _ in range(5):
        progress()
        time.sleep(0.2)
    step_that_hangs()
"""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 7, done.stderr
    assert time.monotonic() - begun > 2.4
    report = (tmp_path / "run" / "hang.0.txt").read_text()
    for text in (done.stderr, report):
        assert "step_that_hangs" in text and "no progress for 0.5 s" in text


def test_a_watchdog_that_is_fed_or_switched_off_does_nothing(tmp_path):
    script = f"""
import time
from pathlib import Path
from dinojax.runtime.watchdog import Watchdog
for timeout in (0.2, 0):
    with Watchdog(timeout, Path({str(tmp_path)!r}) / "hang.txt") as progress:
        for _ in range(20):
            progress()
            time.sleep(0.03)
        if not timeout:
            time.sleep(1)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
    assert not list(tmp_path.iterdir())
