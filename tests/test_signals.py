"""Real runs that get signals: killed at any moment, and asked to leave."""

import json
import os
import random
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
from dinojax.build.step import build_init
from dinojax.config import from_dict
from dinojax.runtime.checkpoint import Checkpoints, abstract
from dinojax.runtime.contract import read_contract
from dinojax.runtime.metrics import last_step

ROOT = Path(__file__).parent.parent
RECIPE = f"{ROOT}/configs/dinov3_vitl16_in1k.py:debug"
OPTIONS = {
    **{"train__log_every_steps": 1, "knn__every_steps": 0, "data__verify_images": 1},
    # Compiles sooner:
    **{"crops__global_crops_size": 32, "crops__local_crops_size": 16, "student__depth": 1},
    **{"student__drop_path_rate": 0.0, "train__batch_size": 4, "train__draw_group_size": 4},
    **{"crops__jitter_probability": 0.0, "crops__grey_probability": 0.0},
    **{"crops__blur_probabilities": (0.0,) * 3, "crops__solarize_probabilities": (0.0,) * 3},
}
PATIENCE_S = 600
"""For anything: a slow machine is no failure."""


def command(workdir: Path, **options: object) -> list[str]:
    """Options by dotted key, with ``__`` for the dot."""
    given = {**OPTIONS, **options}
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
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
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
    config = from_dict(read_contract(workdir)["config"])
    shapes = jax.eval_shape(build_init(config))
    layout = meshes.shardings(meshes.make_mesh(), shapes)
    with Checkpoints(workdir / "checkpoints", every_steps=1) as checkpoints:
        state = checkpoints.restore(abstract(shapes, layout), steps)
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(state).items()}


@pytest.mark.slow
@pytest.mark.parametrize("kills", [30])
def test_interrupted_at_any_moment_the_run_ends_with_the_same_bits(tmp_path, start, kills):
    """SIGKILL again and again, then SIGTERM; a save is on its way nearly always.

    Every third process dies before its first step, wherever it is then.
    """
    steps = 4 * (kills + 3)
    options = {"train__steps": steps, "checkpoint__every_steps": 2}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    uninterrupted = start(command(whole, **options))
    draw = random.Random(kills)
    for kill in range(kills):
        process = start(command(broken, **options))
        begun, target = time.monotonic(), 4 * kill + draw.randint(1, 4)
        if kill % 3 == 2:
            delay = draw.uniform(0, 8)
            wait_until(lambda b=begun, d=delay: time.monotonic() > b + d, process)
        else:
            wait_until(lambda goal=target: last_step(broken) >= goal, process)
            time.sleep(draw.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, kill

    left_at = leave_by_sigterm(start(command(broken, **options, data__num_workers=1)), broken)
    errors = finish(start(command(broken, **options)))
    assert f"resuming from step {left_at}\n" in errors, errors

    finish(uninterrupted)
    expected, found = final_state(whole, steps), final_state(broken, steps)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    summaries = [json.loads((path / "summary.json").read_text()) for path in (whole, broken)]
    assert summaries[0]["loss_last"] == summaries[1]["loss_last"]


def leave_by_sigterm(process: subprocess.Popen, workdir: Path) -> int:
    """After a step or more. The whole group gets it, data workers too, and then again."""
    before = last_step(workdir)
    wait_until(lambda: last_step(workdir) > before, process)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 6, errors
    assert errors.splitlines()[-1].startswith("dinojax.train: asked to leave after "), errors
    assert errors.count("SIGTERM: saving after this step") == 1
    saved = max(int(name) for name in os.listdir(workdir / "checkpoints") if name.isdigit())
    assert saved >= last_step(workdir) > before
    return saved
