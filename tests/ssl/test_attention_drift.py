"""500 steps with the TPU kernels, interpreted, next to 500 with the reference."""

import jax
import numpy as np
import pytest
from recipe_files import recipe_dict

from dinojax.build.step import build_init, build_train_step
from dinojax.config import parse_config
from dinojax.data.open import open_source

STEPS, BATCH = 500, 16


def losses(backend: str, precision: str) -> np.ndarray:
    """The total loss of every step of a small ViT on `scenes`."""
    config = recipe_dict("quickstart:32px")
    config.student.update(depth=2, num_heads=2, patch_size=8, attention_backend=backend)
    config.train.update(batch_size=BATCH, draw_group_size=BATCH, precision=precision, steps=STEPS)
    config.crops.local_crops_number = 2
    config.optim.teacher_temp.warmup_steps = 3 * STEPS // 4
    given = parse_config(config)
    source = open_source("scenes", num_images=512, image_px=32)
    canvases = np.stack([source[index].image for index in range(len(source))])
    step = jax.jit(build_train_step(given), donate_argnums=0)
    state, found = jax.jit(build_init(given))(), []
    size = np.full((BATCH, 2), 32, np.int32)
    for start in BATCH * np.arange(STEPS):
        rows = (start + np.arange(BATCH)) % len(canvases)
        state, metrics = step(state, {"canvas": canvases[rows], "size": size})
        found.append(metrics["total_loss"])
    return np.asarray(jax.device_get(found))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_does_not_drift(precision):
    """Step by step at first; later rounding has made two runs of it, whose losses fall alike."""
    expected, found = (losses(backend, precision) for backend in ("reference", "tpu"))
    print(precision, *(x.reshape(-1, 50).mean(axis=1).round(4) for x in (expected, found)))
    assert expected[:50].mean() - expected[-50:].mean() > 0.3
    np.testing.assert_allclose(found[-100:].mean(), expected[-100:].mean(), rtol=0.01)
    rtol = {"float32": 1e-5, "bfloat16": 1e-2}[precision]
    np.testing.assert_allclose(found[:5], expected[:5], rtol=rtol)
