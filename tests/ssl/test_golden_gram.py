"""One step of every variant of Gram anchoring against the reference."""

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_steps import Case, named

from dinojax.ssl.forward import student_forward, teacher_forward
from dinojax.ssl.inputs import gather_patches

pytestmark = pytest.mark.golden

VARIANTS = {
    (folder, variant): options
    for folder in sorted({path.rsplit("/", 1)[0] for path in goldens.covered("meta/gram_variants")})
    for variant, options in goldens.options(f"{folder}/results.npz").items()
}


HEAVY = ("unnormalised_same_size", "unmasked_teacher_neg", "ema_masked_stats_neg")
"""Only in the slow run and with ``-m golden``: one variant compiles enough for the default one."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(key, marks=pytest.mark.slow if key[1] in HEAVY else (), id="/".join(key))
        for key in VARIANTS
    ],
)
def case(request) -> Case:
    folder, variant = request.param
    recorded = goldens.read_json(f"{folder}/config.json")
    cfg = {**recorded["cfg_without_gram"], "gram": dict(VARIANTS[request.param])}
    size = cfg["gram"].pop("gram_teacher_crops_size")
    cfg["crops"] = {**cfg["crops"], "gram_teacher_crops_size": size}
    given = {"rope_dtype": "fp32", **recorded, "cfg": cfg}
    return Case(given, f"{folder}/results.npz", step=variant)


def test_patches(case):
    """What the loss gets: of the tokens that it uses, on the student's grid."""
    inputs, gram = case.inputs(0), case.loss.gram

    @jax.jit
    def patches():
        theirs = teacher_forward(case.loss.model, case.teacher, inputs).patches
        ours = student_forward(case.loss.model, case.student, inputs).patches
        return ours, gram.targets(case.gram_teacher, theirs, inputs)

    for name, found in zip(("student", "teacher"), patches(), strict=True):
        if gram.tokens_used != "all":
            masked = np.asarray(inputs.masks).reshape(-1)
            used = masked if gram.tokens_used == "masked" else ~masked
            found = gather_patches(found, jnp.asarray(np.flatnonzero(used))[None])
        case.check(f"{case.prefix(0)}/inter/{name}_patches", found[0])


@pytest.mark.slow
def test_losses_and_gradients(case):
    _, metrics = case.steps()(case.state(), case.inputs(0))
    case.check_metrics(0, metrics)

    def total(student):
        loss, _ = case.loss(student, case.state(), case.inputs(0))
        return loss

    grads = named(jax.jit(jax.grad(total))(case.student))
    listed = goldens.children(case.path, f"{case.prefix(0)}/grad")
    assert listed
    for name, expected in listed.items():
        case.check(f"{case.prefix(0)}/grad/{name}", grads[name].reshape(expected.shape))
