"""The tiny pipeline from end to end: killed inside of stages and between them, it ends the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "pipelines" / "tiny.py"

pytestmark = pytest.mark.slow


def start(workdir: Path, *flags: str) -> subprocess.Popen:
    """In a process group of its own, with its stages."""
    command = [sys.executable, "-m", "dinojax.pipeline", f"--config={TINY}", f"--workdir={workdir}"]
    return subprocess.Popen(
        [*command, *flags],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> str:
    said = process.communicate()[0]
    assert process.returncode == 0
    return said


def kill_when(process: subprocess.Popen, true: Callable[[], bool], number: int) -> None:
    while not true():
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, number)
    process.communicate()
    assert process.returncode in (-number, 6)


def is_done(stage: Path) -> bool:
    record = stage / "stage.json"
    return record.exists() and json.loads(record.read_text())["done"] is not None


def test_killed_inside_and_between(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    said = finish(start(whole))
    expected = json.loads((whole / "pipeline.json").read_text())

    process = start(broken)
    kill_when(process, (broken / "pretrain" / "checkpoints" / "30").is_dir, signal.SIGKILL)
    process = start(broken)
    kill_when(process, lambda: is_done(broken / "pretrain"), signal.SIGKILL)
    process = start(broken)
    kill_when(process, (broken / "gram" / "checkpoints" / "70").is_dir, signal.SIGTERM)
    assert process.returncode == 6
    finish(start(broken))
    found = json.loads((broken / "pipeline.json").read_text())

    for row in (*expected["stages"], *found["stages"]):
        assert row.pop("seconds") > 0
        for parent in row["parents"]:
            assert parent["reference"].startswith("stage:")
    assert found == expected

    stages = {row["name"]: row for row in found["stages"]}
    assert {row["state"] for row in stages.values()} == {"done"}
    for name in ("teacher", "vit", "convnext"):
        score = stages[f"{name}_scores"]["scores"]["knn_top1"]
        assert 0 < score < 1 and f"{score:.4f}" in said
        summary = json.loads((broken / f"{name}_scores" / "summary.json").read_text())
        assert summary["knn_top1"] == score
        scores = json.loads((broken / f"{name}_scores" / "scores.json").read_text())
        with safe_open(broken / f"{name}_file" / "backbone.safetensors", "np") as file:
            fingerprint = file.metadata()["checkpoint_fingerprint"]
        assert fingerprint == scores["checkpoint_fingerprint"]
    for name in ("pretrain", "gram", "high_res", "distil"):
        assert "loss_last" in json.loads((broken / name / "summary.json").read_text())

    # Nothing is left to do; a student of another rate is distilled, scored and exported anew.
    lines = finish(start(broken, "--dry_run")).splitlines()
    assert all(" done " in line for line in lines) and len(lines) == len(stages)
    flag = "--config.stages.distil.config.optim.lr.peak=0.002"
    lines = finish(start(broken, "--dry_run", flag)).splitlines()
    to_run = [line.split()[0] for line in lines if " to run " in line]
    assert to_run == ["distil", "vit_scores", "convnext_scores", "vit_file", "convnext_file"]
    assert "optim.lr.peak was 0.001 and is 0.002" in "\n".join(lines)
