"""The CLS cross-entropy against a double loop over crop pairs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import check_loss, compile_on_eight, log_sum_exp, value_and_gradient

from dinojax.losses.dino import cross_entropy, dino_loss

IMAGES, PROTOTYPES = 8, 5
PAIRS = [(2, 2, False), (2, 2, True), (4, 2, False), (3, 2, True), (2, 3, True), (1, 2, False)]
"""Student crops, teacher crops, same-crop pairs ignored."""


def mean_loss(student: jax.Array, teacher: jax.Array, **options) -> jax.Array:
    """All crops count alike."""
    return dino_loss(student, teacher, jnp.ones(len(student)), **options)[0]


loss_of = jax.jit(mean_loss, static_argnames=("temperature", "ignore_diagonal"))
costs_of = jax.jit(cross_entropy, static_argnums=2)


def oracle(
    student: np.ndarray,
    teacher: np.ndarray,
    *,
    temperature: float = 0.1,
    ignore_diagonal: bool = False,
) -> float:
    """DINO, Eq. 2 with the sum over x' != x of Eq. 3, as a mean over the pairs and images."""
    terms = []
    for s, own in enumerate(student):
        for t, target in enumerate(teacher):
            if ignore_diagonal and s == t:
                continue
            for logits, probs in zip(own / temperature, target, strict=True):
                terms.append(-(probs * (logits - log_sum_exp(logits))).sum())
    return float(np.mean(terms))


def crops(students: int = 2, teachers: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Student logits and teacher probabilities in float64."""
    rng = np.random.default_rng(seed)
    sharp = np.exp(2 * rng.normal(size=(teachers, IMAGES, PROTOTYPES)))
    student = 0.3 * rng.normal(size=(students, IMAGES, PROTOTYPES))
    return student, sharp / sharp.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(("students", "teachers", "ignore_diagonal"), PAIRS)
def test_value_and_gradient(students, teachers, ignore_diagonal):
    options = {"temperature": 0.25, "ignore_diagonal": ignore_diagonal}
    given = crops(students, teachers)
    check_loss(partial(mean_loss, **options), partial(oracle, **options), *given)


def test_one_call_for_global_and_local_crops_is_two_weighted_by_their_pairs():
    """The objective's: 2 global crops, 3 local ones, these at 0.3."""
    student, teacher = crops(5)

    def apart(student, teacher):
        whole = mean_loss(student[:2], teacher, ignore_diagonal=True)
        return (2 * whole + 0.3 * 6 * mean_loss(student[2:], teacher)) / (2 + 6)

    def together(student, teacher):
        weights = jnp.array([1, 1, 0.3, 0.3, 0.3])
        value, crop_losses = dino_loss(student, teacher, weights, ignore_diagonal=True)
        return value + (crop_losses - jax.lax.stop_gradient(crop_losses)).sum(), crop_losses

    with jax.enable_x64(True):
        given = jnp.asarray(student), jnp.asarray(teacher)
        expected = jax.jit(jax.value_and_grad(apart))(*given)
        found = jax.jit(jax.value_and_grad(together, has_aux=True))(*given)
    (value, crop_losses), gradient = found
    np.testing.assert_allclose(value, expected[0], rtol=1e-12)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-12, atol=1e-15)
    alone = [oracle(student[i : i + 1], teacher[1 - i : 2 - i]) for i in range(2)]
    alone += [oracle(student[i : i + 1], teacher) for i in range(2, 5)]
    np.testing.assert_allclose(crop_losses, alone, rtol=1e-12)


def test_the_diagonal_couples_nothing_when_ignored():
    """Student crop 0 then sees teacher crop 1 only."""
    student, teacher = crops()
    other = teacher.copy()
    other[0] = crops(seed=1)[1][0]
    for ignored in (True, False):
        loss = partial(mean_loss, ignore_diagonal=ignored)
        before, after = (value_and_gradient(loss, student, t)[1][0] for t in (teacher, other))
        assert np.array_equal(before, after) == ignored


@pytest.mark.parametrize("ignore_diagonal", [True, False])
def test_order_of_images_and_of_prototypes(ignore_diagonal):
    student, teacher = crops()
    rng = np.random.default_rng(2)
    images, prototypes = rng.permutation(IMAGES), rng.permutation(PROTOTYPES)
    with jax.enable_x64(True):
        found, expected = (
            loss_of(jnp.asarray(s), jnp.asarray(t), ignore_diagonal=ignore_diagonal)
            for s, t in (
                (x[:, images][..., prototypes] for x in (student, teacher)),
                (student, teacher),
            )
        )
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_the_least_loss_is_the_teachers_entropy():
    """With one crop each: at student = teacher, where the gradient vanishes."""
    _, teacher = crops(1, 1)
    entropy = -(teacher * np.log(teacher)).sum(axis=-1).mean()
    with jax.enable_x64(True):
        value, gradient = value_and_gradient(mean_loss, 0.1 * np.log(teacher) + 3.0, teacher)
    assert value == pytest.approx(entropy, rel=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_an_offset_of_all_logits_changes_nothing():
    """Here at the default temperature."""
    student, teacher = crops()
    with jax.enable_x64(True):
        found = loss_of(jnp.asarray(student + 40.0), jnp.asarray(teacher))
    assert found == pytest.approx(oracle(student, teacher), rel=1e-10)


def test_bf16_logits_are_widened():
    student, teacher = (jnp.asarray(x, jnp.float32) for x in crops())
    rounded = student.astype(jnp.bfloat16)
    value, gradient = value_and_gradient(mean_loss, rounded, teacher)
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, loss_of(rounded.astype(jnp.float32), teacher), rtol=1e-6)


def test_far_logits_neither_overflow_nor_vanish():
    """300 temperatures apart in float32; the wrong prototype costs exactly the distance."""
    logits = jnp.array([[30.0, 0.0], [-30.0, 0.0], [3e4, 0.0]])
    targets = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    rows = costs_of(logits, targets, 0.1)
    np.testing.assert_allclose(rows, [0, 300, 3e5], rtol=1e-6)


def test_targets_need_not_sum_to_one():
    """`dino_loss` gives the sum over a student crop's teachers."""
    student, teacher = crops()
    with jax.enable_x64(True):
        rows = costs_of(jnp.asarray(student[0]), jnp.asarray(teacher.sum(axis=0)), 0.1)
    assert rows.shape == (IMAGES,)
    assert np.asarray(rows).mean() == pytest.approx(2 * oracle(student[:1], teacher), rel=1e-12)


def test_eight_devices():
    given = [x.astype(np.float32) for x in crops()]
    (value, gradient), _ = compile_on_eight(jax.value_and_grad(mean_loss), *given, axis=1)
    expected, expected_gradient = value_and_gradient(mean_loss, *given)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-7)
