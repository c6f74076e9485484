"""What a step computes on, from configuration and canvases."""

from typing import Any

import jax
import numpy as np
import pytest

from dinojax.build.inputs import build_inputs
from dinojax.build.model import build_model
from dinojax.build.step import build_init
from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.ssl.forward import student_forward, teacher_forward
from dinojax.ssl.inputs import StepInputs


def small(**overrides: Any) -> Config:
    config = shrink(default_config())
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return parse_config(config)


def step_inputs(config: Config, channels: int = 3) -> StepInputs:
    count, side = config.train.batch_size, config.data.canvas_px
    rng = np.random.default_rng(0)
    batch = {
        "canvas": rng.integers(0, 256, (count, side, side, channels), np.uint8),
        "size": np.full((count, 2), side, np.int32),
    }
    return jax.jit(build_inputs(config), static_argnums=1)(batch, 0)


@pytest.mark.slow
def test_teacher_without_jitter():
    """Only the teacher sees its own crops; boxes, masks and the student's pixels stay."""
    config = small(crops__teacher_no_color_jitter=True)
    same, own = step_inputs(small()), step_inputs(config)
    assert same.teacher_crops is None and own.teacher_crops is not None
    np.testing.assert_array_equal(own.global_crops, same.global_crops)
    np.testing.assert_array_equal(own.masks, same.masks)
    assert np.abs(own.teacher_crops - own.global_crops).mean() > 0.1

    model = build_model(config)
    state = jax.jit(build_init(config))()
    shown = own._replace(global_crops=own.teacher_crops, teacher_crops=None)
    teacher = jax.jit(lambda inputs: teacher_forward(model, state.teacher, inputs))
    student = jax.jit(lambda inputs: student_forward(model, state.student, inputs))
    for found, expected in zip(teacher(own), teacher(shown), strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(student(own), student(same), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_bands_lose_the_operations_on_colours():
    """Whatever the recipe says of saturation, hue and grey; brightness and contrast stay."""
    statistics = {"crops__rgb_mean": (0.5,) * 5, "crops__rgb_std": (0.2,) * 5}
    five = small(student__in_chans=5, **statistics)
    crops = step_inputs(five, channels=5).global_crops
    assert crops.shape[-1] == 5 and np.isfinite(crops).all()
    assert np.asarray(crops).std(axis=-1).min(axis=(2, 3)).max() > 0, "no crop is grey"
    plain = step_inputs(
        small(student__in_chans=5, crops__jitter_probability=0.0, **statistics), channels=5
    )
    assert np.abs(plain.global_crops - crops).mean() > 0.05
