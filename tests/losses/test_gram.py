"""Gram anchoring against a loop over pairs of tokens."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import check_loss, compile_on_eight, round_factors, value_and_gradient

from dinojax.losses.gram import NEGATIVES, gram_loss

IMAGES, TOKENS, WIDTH, TEACHER_WIDTH = 8, 4, 3, 5
RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(IMAGES, TOKENS, WIDTH))
TEACHER = RNG.normal(size=(IMAGES, TOKENS, TEACHER_WIDTH))
FEW = slice(3)
"""Images, where the slow oracle is differentiated."""

loss_of = jax.jit(gram_loss, static_argnames=("normalized", "negatives"))


def oracle(
    student: np.ndarray,
    teacher: np.ndarray,
    *,
    normalized: bool = True,
    negatives: str = "keep",
) -> float:
    """DINOv3, Eq. 2, as a mean over images and pairs of tokens."""
    terms = []
    for image in range(len(student)):
        ours, theirs = student[image], teacher[image]
        for i in range(len(ours)):
            for j in range(len(ours)):
                own, target = (x[i] @ x[j] for x in (ours, theirs))
                if normalized:
                    own = own / (np.linalg.norm(ours[i]) * np.linalg.norm(ours[j]))
                    target = target / (np.linalg.norm(theirs[i]) * np.linalg.norm(theirs[j]))
                if negatives == "remove":
                    own = max(own, 0)
                if negatives in ("remove", "remove_teacher"):
                    target = max(target, 0)
                terms.append((own - target) ** 2)
    return float(np.mean(terms))


def value(student: np.ndarray, teacher: np.ndarray, **options) -> float:
    with jax.enable_x64(True):
        return float(loss_of(jnp.asarray(student), jnp.asarray(teacher), **options))


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("normalized", [True, False])
def test_value_and_gradient(normalized, negatives):
    options = {"normalized": normalized, "negatives": negatives}
    check_loss(
        partial(gram_loss, **options), partial(oracle, **options), STUDENT[FEW], TEACHER[FEW]
    )


def test_negatives_are_three_different_losses():
    found = {option: value(STUDENT, TEACHER, negatives=option) for option in NEGATIVES}
    assert len({round(x, 6) for x in found.values()}) == 3


def test_one_matrix_per_group():
    """All tokens of a group in one matrix, as `[G, b * N, D]`."""
    student, teacher = (x.reshape(2, -1, x.shape[-1]) for x in (STUDENT, TEACHER))
    found = value(student, teacher)
    assert found == pytest.approx(oracle(student, teacher), rel=1e-12)
    parts = [value(student[[g]], teacher[[g]]) for g in range(2)]
    assert found == pytest.approx(np.mean(parts), rel=1e-12)
    assert found != pytest.approx(value(STUDENT, TEACHER), rel=1e-3)


def test_order_of_images_and_of_tokens():
    rng = np.random.default_rng(1)
    images, tokens = rng.permutation(IMAGES), rng.permutation(TOKENS)
    found = value(*(x[images][:, tokens] for x in (STUDENT, TEACHER)))
    assert found == pytest.approx(value(STUDENT, TEACHER), rel=1e-12)
    assert value(STUDENT[:, tokens], TEACHER) != pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("normalized", [True, False])
def test_only_similarities_matter(normalized):
    """A rotated student is as good; a longer one only if similarities are cosines."""
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)))
    expected = value(STUDENT, TEACHER, normalized=normalized)
    assert value(STUDENT @ rotation, TEACHER, normalized=normalized) == pytest.approx(expected)
    longer = value(2 * STUDENT, TEACHER, normalized=normalized)
    assert (longer == pytest.approx(expected, rel=1e-9)) == normalized


def test_nothing_to_learn_from_itself():
    with jax.enable_x64(True):
        found, gradient = value_and_gradient(gram_loss, STUDENT, 3 * STUDENT)
    np.testing.assert_allclose(found, 0, atol=1e-25)
    np.testing.assert_allclose(gradient, 0, atol=1e-14)


def test_a_token_of_zeros_is_finite():
    student = STUDENT.astype(np.float32)
    student[0, 1] = 0
    found, gradient = value_and_gradient(gram_loss, student, TEACHER.astype(np.float32))
    assert np.isfinite(found) and np.isfinite(gradient).all()


def test_bf16_features_are_widened():
    student, teacher = (jnp.asarray(x, jnp.bfloat16) for x in (STUDENT, TEACHER))
    for normalized in (True, False):
        found = loss_of(student, teacher, normalized=normalized)
        assert found.dtype == jnp.float32
        wide = (x.astype(jnp.float32) for x in (student, teacher))
        np.testing.assert_allclose(found, loss_of(*wide, normalized=normalized), rtol=1e-6)


@pytest.mark.parametrize("normalized", [True, False])
def test_products_of_bf16_features_are_exact_in_one_pass(monkeypatch, normalized):
    """The student is near its teacher, where rounded unit rows would change the loss most."""
    teacher = RNG.normal(size=(2, 8, 64))
    near = teacher + 0.03 * RNG.normal(size=teacher.shape)
    student, teacher = (jnp.asarray(x, jnp.bfloat16) for x in (near, teacher))
    wide = (np.asarray(x, np.float64) for x in (student, teacher))
    expected = value(*wide, normalized=normalized)
    round_factors(monkeypatch)
    found = gram_loss(student, teacher, normalized=normalized)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_eight_devices():
    given = [x.astype(np.float32) for x in (STUDENT, TEACHER)]
    (found, gradient), program = compile_on_eight(jax.value_and_grad(gram_loss), *given, axis=0)
    expected, expected_gradient = value_and_gradient(gram_loss, *given)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-7)
    assert "all-gather" not in program


def test_unknown_negatives_are_named():
    with pytest.raises(ValueError, match=r"negatives='drop' is unknown; use one of .*'remove'"):
        gram_loss(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3)), negatives="drop")
