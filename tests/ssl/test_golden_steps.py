"""Whole training steps against the reference: losses, gradients, parameters, EMA, Gram teacher."""

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_steps import Case, named

from dinojax.ssl.forward import student_forward, teacher_forward

pytestmark = pytest.mark.golden

CASES = [
    path.split("/")[1]
    for path in goldens.covered("meta/", "/results.npz")
    if "init_file" in (recorded := goldens.read_json(path.replace("results.npz", "config.json")))
    and "cfg" in recorded
]


first_by_default = pytest.mark.parametrize(
    "case",
    [CASES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in CASES[1:])],
    indirect=True,
)
"""What takes minutes for all of them."""


VARIANTS = ("pretrain_bf16rope", "pretrain_v1sched", "distill_convnext")
"""Of other schedules, rounding or students, which have tests of their own as well."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow) if name in VARIANTS else name for name in CASES
    ],
)
def case(request) -> Case:
    folder = f"meta/{request.param}"
    return Case(goldens.read_json(f"{folder}/config.json"), f"{folder}/results.npz")


@first_by_default
def test_forward_outputs(case):
    inputs = case.inputs(0)
    model = case.loss.model
    seen = (case.loss.frozen or model, case.state().target_teacher, inputs)
    teacher = jax.jit(teacher_forward, static_argnums=0)(*seen)

    def check(name: str, value) -> None:
        case.check(f"it0/inter/{name}", value)

    check("teacher/cls_after_head", teacher.cls_logits)
    temperature = case.loss.schedules.teacher_temp(0)
    targets, _ = case.loss.centering(teacher, temperature, None)
    check("teacher/cls_centered", targets.cls_probs)
    check("teacher/masked_patch_centered", targets.patch_probs[0])
    student = jax.jit(student_forward, static_argnums=0)(model, case.student, inputs)
    check("student_global/cls_pre_head", student.global_cls)
    views = len(inputs.global_crops)
    check("student_global/cls_after_head", student.cls_logits[:views])
    check("student_local/cls_after_head", student.cls_logits[views:])
    check("student_global/masked_patch_after_head", student.patch_logits[0])
    if case.loss.gram is not None:
        check("gram/student_patches", student.patches[0])
        targets = jax.jit(case.loss.gram.targets)(case.gram_teacher, teacher.patches, inputs)
        check("gram/teacher_patches", targets[0])


@first_by_default
def test_gradients(case):
    def total(student):
        loss, _ = case.loss(student, case.state(), case.inputs(0))
        return loss

    grads = named(jax.jit(jax.grad(total))(case.student))
    listed = goldens.children(case.path, "it0/grad")
    assert listed
    for name, expected in listed.items():
        case.check(f"it0/grad/{name}", grads[name].reshape(expected.shape))
    names = [str(n) for n in goldens.arrays(case.path)["it0/grad_norm_per_param_names"]]
    norms = [np.linalg.norm(grads[name.removeprefix("student.")]) for name in names]
    case.check("it0/grad_norm_per_param", np.array(norms))


def test_steps(case):
    """Losses and rates of every iteration, parameters and EMA where they were recorded."""
    state, step = case.state(), case.steps()
    for iteration in range(case.recorded["steps"]):
        state, metrics = step(state, case.inputs(iteration))
        case.check_metrics(iteration, metrics)
        case.check_parameters(iteration + 1, state)
    assert int(state.step) == case.recorded["steps"] and int(state.refused_steps) == 0


@first_by_default
def test_nonfinite_step_changes_nothing(case):
    inputs = case.inputs(0)
    bad = inputs._replace(global_crops=inputs.global_crops.at[0, 0, 0, 0, 0].set(jnp.nan))
    before = case.state()
    after, metrics = case.steps()(before, bad)
    assert not metrics["finite"] and int(after.refused_steps) == 1 and int(after.step) == 1
    for field in ("student", "teacher", "moments", "gram_teacher", "frozen_teacher"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, field), getattr(before, field))
