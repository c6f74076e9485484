"""Both schedule families and the published configs' schedules against the reference, in float64."""

from pathlib import Path

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import schedule_v2, schedules_from_reference

from dinojax.build.schedules import build_schedule, build_schedules
from dinojax.config import Config, TrainConfig
from dinojax.config.method import OptimConfig
from dinojax.schedules import cosine_schedule, linear_warmup_cosine_decay

pytestmark = pytest.mark.golden

FUNCTIONS, FAILURES = "schedules/functions.npz", "schedules/failures.json"
RENAMED = {
    "base_value": "base",
    "final_value": "final",
    "total_iters": "total_steps",
    "warmup_iters": "warmup_steps",
    "start_warmup_value": "start",
    "freeze_iters": "freeze_steps",
    "warmup_iterations": "warmup_steps",
    "total_iterations": "total_steps",
    "cosine_iterations": "cosine_steps",
}
FAMILIES = {"v1": cosine_schedule, "v2": linear_warmup_cosine_decay}
PUBLISHED = [path for path in goldens.covered("schedules/", ".npz") if path != FUNCTIONS]
OPTIMIZER = ("lr", "last_layer_lr", "weight_decay", "momentum", "teacher_temp")
V1_DEFAULTS = {
    "optim": {
        "lr": 1e-3,
        "min_lr": 1e-6,
        "warmup_epochs": 10,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "freeze_last_layer_epochs": 1,
        "schedule_trunc_extra": 0,
    },
    "teacher": {
        "momentum_teacher": 0.992,
        "final_momentum_teacher": 1.0,
        "warmup_teacher_temp": 0.04,
        "teacher_temp": 0.07,
        "warmup_teacher_temp_epochs": 30,
    },
}
"""The reference's defaults; the manifest says only "v1" of configs that keep them."""
LOSS_WEIGHTS = {
    "dinov3_vit7b16_gram_anchor": {
        "dino_local_loss_weight": {
            "start": 1.0,
            "peak": 1.0,
            "end": 0.5,
            "warmup_epochs": 1000,
            "cosine_epochs": 1,
        },
        "gram_loss_weight": {
            "start": 0.0,
            "peak": 0.0,
            "end": 2.0,
            "warmup_epochs": 1000,
            "cosine_epochs": 1,
        },
    },
    "dinov3_vit7b16_high_res_adapt": {
        "dino_local_loss_weight": {"start": 0.5, "peak": 0.5, "end": 0.5, "warmup_epochs": 0},
        "gram_loss_weight": {"start": 1.5, "peak": 1.5, "end": 1.5, "warmup_epochs": 0},
    },
}
"""Sections of the published recipes that the manifest's options leave out."""


def check_values(path: str, name: str, schedule) -> None:
    arrays = goldens.arrays(path)
    with jax.enable_x64(True):
        values = np.asarray(jax.vmap(schedule)(jnp.asarray(arrays["iteration"])))
    values = np.broadcast_to(values, arrays[name].shape)
    np.testing.assert_allclose(values, arrays[name], rtol=1e-12, err_msg=f"{path}:{name}")


@pytest.mark.parametrize("case", list(goldens.options(FUNCTIONS)))
def test_functions(case):
    options = {RENAMED.get(k, k): v for k, v in goldens.options(FUNCTIONS)[case].items()}
    options = {k: v if k.endswith("steps") else float(v) for k, v in options.items()}
    with jax.enable_x64(True):
        schedule = FAMILIES[case.split("_")[0]](**options)
        values = [float(schedule(step)) for step in range(len(goldens.arrays(FUNCTIONS)[case]))]
    np.testing.assert_allclose(values, goldens.arrays(FUNCTIONS)[case], rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("path", PUBLISHED)
def test_published_optimizer_schedules(path):
    options = goldens.options(path)
    given = options["schedules"]
    train = {"OFFICIAL_EPOCH_LENGTH": options["epoch_length"]}
    v1 = {"optim": V1_DEFAULTS["optim"], "teacher": V1_DEFAULTS["teacher"]}
    v2 = {"optim": {}, "schedules": given}
    recorded = {"train": train, **(v2 if isinstance(given, dict) else v1)}
    config = Config(
        optim=OptimConfig(
            scaling_rule=options["scaling_rule"], **schedules_from_reference(recorded)
        ),
        train=TrainConfig(
            steps=options["total_iterations"],
            batch_size=options["world_size"] * options["batch_size_per_gpu"],
        ),
    )
    schedules = build_schedules(config)
    for name in OPTIMIZER:
        check_values(path, name, getattr(schedules, name))


@pytest.mark.parametrize("path", PUBLISHED)
def test_published_loss_weights(path):
    options = goldens.options(path)
    sections = LOSS_WEIGHTS.get(Path(options["config"]).stem, {})
    assert set(goldens.arrays(path)) == {"iteration", *OPTIMIZER, *sections}
    for name, section in sections.items():
        schedule = schedule_v2(section, options["epoch_length"])
        check_values(path, name, build_schedule(name, schedule, options["total_iterations"]))


def test_failures_have_no_values():
    """Configs that the reference cannot build: nothing to compare with, so none is stored."""
    stored = {goldens.options(path)["config"] for path in PUBLISHED}
    for config in goldens.read_json(FAILURES):
        assert not any(config in (name, Path(name).name, Path(name).stem) for name in stored)
        name = config.removeprefix("configs/train/").removesuffix(".yaml").replace("/", "__")
        assert f"schedules/{name}.npz" not in goldens.files("schedules/")
