"""A step of several students against the reference's recorded step of one of them."""

import functools

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_steps import Case

from dinojax.ssl.students import Learner, Students, make_students_step

# By default `test_golden_steps` has each student's steps.
pytestmark = [pytest.mark.golden, pytest.mark.slow]

CASES = [
    path.split("/")[1]
    for path in goldens.covered("meta/", "/results.npz")
    if goldens.read_json(path.replace("results.npz", "config.json")).get("arch_class")
    == "MultiDistillationMetaArch"
]
OTHER_LR = 3.0
"""The second student is the first with another learning rate: so much higher."""


@functools.cache
def run(name: str):
    """The first step of two students: the recorded one, and the same with another rate."""
    folder = f"meta/{name}"
    case = Case(goldens.read_json(f"{folder}/config.json"), f"{folder}/results.npz")
    schedules, state = case.loss.schedules, case.state()
    faster = schedules._replace(lr=lambda step: OTHER_LR * schedules.lr(step))

    def learner(schedules) -> Learner:
        loss = case.loss._replace(schedules=schedules)
        return Learner(loss, case.optimizer, lambda step, part: case.inputs(0).draws)

    learners = {"recorded": learner(schedules), "faster": learner(faster)}
    step = make_students_step(learners, lambda batch, step: batch)
    one = state._replace(frozen_teacher=None)
    before = Students(jnp.int32(0), {"recorded": one, "faster": one}, state.frozen_teacher)
    lowered = jax.jit(step).lower(before, case.inputs(0))
    return case, before, *lowered.compile()(before, case.inputs(0)), lowered.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_each_student_takes_its_own_step(name):
    case, before, after, metrics, _ = run(name)
    for student in before.students:
        own = {k.removeprefix(f"{student}/"): v for k, v in metrics.items()}
        if student == "recorded":
            case.check_metrics(0, {k: v for k, v in own.items() if f"{student}/{k}" in metrics})
            case.check_parameters(1, after.students[student])
        else:
            np.testing.assert_allclose(own["lr"], OTHER_LR * metrics["recorded/lr"])
            goldens.check(case.path, "it0/total_loss", own["total_loss"])

    def moved(student: str) -> np.ndarray:
        pairs = (
            x.student["backbone"]["norm"]["scale"]
            for x in (after.students[student], before.students[student])
        )
        return np.subtract(*pairs)

    np.testing.assert_allclose(moved("faster"), OTHER_LR * moved("recorded"), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_the_summary(name):
    _, before, after, metrics, _ = run(name)
    losses = [metrics[f"{student}/total_loss"] for student in before.students]
    np.testing.assert_allclose(metrics["total_loss"], np.mean(losses), rtol=1e-6)
    assert metrics["finite"] and metrics["refused_in_a_row"] == 0
    assert int(after.step) == 1 and int(after.refused_steps) == 0
    jax.tree.map(np.testing.assert_array_equal, after.frozen_teacher, before.frozen_teacher)
    assert all(one.frozen_teacher is None for one in after.students.values())


@pytest.mark.parametrize("name", CASES)
def test_one_student_after_the_other(name):
    """The second's forward pass waits for the first's new parameters: or both keep activations."""
    _, before, *_, text = run(name)
    lines = [line for line in text.splitlines() if "optimization_barrier" in line]
    (results,) = [line.partition("=")[0] for line in lines]
    parameters = len(jax.tree.leaves(before.student["recorded"]))
    assert int(results.partition(":")[2]) == 2 * parameters
