"""Several students in one step: each takes the step that it would take alone."""

from typing import Any

import jax
import numpy as np
import pytest

from dinojax import trees
from dinojax.build import inputs as build_inputs
from dinojax.build import loss as build_loss
from dinojax.build import step as build
from dinojax.config import Config, default_config, parse_config
from dinojax.config.shrink import shrink
from dinojax.config.students import student_configs
from dinojax.replay import step_findings
from dinojax.ssl.students import Learner, make_students_step

SHARED = {
    "distillation.teacher": "random",
    "distillation.backbone.embed_dim": 32,
    "distillation.backbone.depth": 1,
    "distillation.backbone.num_heads": 2,
    "distillation.students": (
        ("small", (("student.embed_dim", 16), ("optim.lr.peak", 1e-2))),
        ("wide", ()),
    ),
    "student.embed_dim": 32,
    "student.depth": 1,
    "crops.global_crops_size": 32,
    "crops.local_crops_size": 16,
    "data.canvas_px": 32,
    "optim.lr.warmup_steps": 0,
    "optim.freeze_last_layer_steps": 0,
    "train.draw_group_size": 2,
    "train.batch_size": 4,
    "dino.koleo_group_size": 2,
}
HEADS = {
    f"{section}.{key}": value
    for section in ("dino.head", "ibot.head", "distillation.dino_head", "distillation.ibot_head")
    for key, value in (("n_prototypes", 32), ("hidden_dim", 32), ("bottleneck_dim", 16))
}


def config(**overrides: Any) -> Config:
    given = shrink(default_config())
    given.update_from_flattened_dict({**SHARED, **HEADS})
    given.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return parse_config(given)


def batch() -> dict[str, np.ndarray]:
    canvas = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    return {"canvas": canvas, "size": np.full((4, 2), 32, np.int32)}


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_each_takes_the_step_that_it_takes_alone(micro_batches):
    given = config(train__micro_batches=micro_batches, train__precision="float64")
    with jax.enable_x64(True):
        state = jax.jit(build.build_init(given))()
        after, metrics = jax.jit(build.build_train_step(given))(state, batch())
        name, alone = next(iter(student_configs(given).items()))
        expected, terms = jax.jit(build.build_train_step(alone))(state.one(name), batch())
    found = trees.flatten(after.students[name])
    for path, leaf in trees.flatten(expected._replace(frozen_teacher=None)).items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-8, atol=1e-10, err_msg=path)
    np.testing.assert_allclose(metrics[f"{name}/total_loss"], terms["total_loss"], rtol=1e-10)
    for one in after.students.values():
        assert np.abs(one.student["backbone"]["norm"]["bias"]).max() > 1e-5


@pytest.mark.slow
def test_a_replay_names_the_student_and_the_module():
    given = config()
    state = jax.jit(build.build_init(given))()
    weights = state.students["wide"].student["backbone"]["blocks"]["mlp"]["fc2"]
    weights["kernel"] = weights["kernel"].at[0, 1, 3].set(np.inf)
    found = step_findings(given)(state, batch())
    assert found[0][:4] == ("state", "wide/student/backbone/blocks/mlp/fc2/kernel[0]", 0, 1)
    assert next(one.name for one in found if one.stage == "student modules") == (
        "wide/backbone/blocks/mlp/fc2[0]"
    )
    assert not [one for one in found if one.name.startswith("small/")]


@pytest.mark.parametrize("micro_batches", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_views_are_made_once(micro_batches):
    """By construction: nothing is left to what a compiler finds in common."""
    given, made = config(train__micro_batches=micro_batches), []
    students = student_configs(given)
    make_views = build_inputs.build_step_views(students["small"])

    def counted(*args: Any):
        made.append(args)
        return make_views(*args)

    learners = {
        name: Learner(
            build_loss.build_step_loss(one),
            build.build_optimizer(one),
            build_inputs.build_draws(one),
        )
        for name, one in students.items()
    }
    step = make_students_step(learners, counted, micro_batches)
    jax.eval_shape(step, jax.eval_shape(build.build_init(given)), batch())
    assert len(made) == 1
