"""A trained run, handed over: stock transformers without jax gives its kNN score."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dinojax
from dinojax.data.open import open_source
from dinojax.data.pipeline import sequential_batches
from dinojax.evaluation.features import centre_crops
from dinojax.evaluation.knn import knn_accuracy
from dinojax.export_torch import export_torch
from dinojax.views.colour import WHITE

pytestmark = [pytest.mark.parity, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
IMAGES, BANK, PX = 600, 400, 64
QUICK = {"train.steps": 48, "optim.teacher_temp.warmup_steps": 24, "data.scenes.num_images": 512}


def run(*command: str) -> None:
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    env |= {"JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_quickstart_by_transformers(tmp_path):
    workdir = tmp_path / "run"
    options = [f"--config.{key}={value}" for key, value in QUICK.items()]
    options += [f"--workdir={workdir}", "--config.knn.every_steps=48"]
    run(sys.executable, "-m", "dinojax.train", "--config=configs/quickstart.py", *options)
    export_torch(str(workdir), str(tmp_path / "folder"), layout="hf")

    model, source = dinojax.load(str(workdir)), open_source(f"scenes:{IMAGES}")
    mean, std = (np.asarray(value, np.float32) for value in (model.images.mean, model.images.std))
    images, labels = [], []
    for batch in sequential_batches(source, 100, PX):
        crops = centre_crops(batch["canvas"], batch["size"], PX)
        images.append(np.asarray((crops / WHITE - mean) / std))
        labels.append(batch["label"])
    images, labels = np.concatenate(images), np.concatenate(labels)
    ours = np.concatenate(
        [np.asarray(model.features(part)["cls"]) for part in np.array_split(images, 6)]
    )

    np.save(tmp_path / "images.npy", images.transpose(0, 3, 1, 2))
    script = ROOT / "tests" / "parity" / "knn_by_transformers.py"
    files = [str(tmp_path / name) for name in ("folder", "images.npy", "cls.npy")]
    run(sys.executable, str(script), *files)
    theirs = np.load(tmp_path / "cls.npy")
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)

    def score(features: np.ndarray) -> float:
        known, asked = slice(0, BANK), slice(BANK, None)
        given = (features[known], labels[known], features[asked], labels[asked])
        return knn_accuracy(*given, k=20, temperature=0.07, num_classes=10)

    assert score(theirs) == score(ours) > 0.15
