"""The masked-patch cross-entropy against a loop over tokens."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import check_loss, compile_on_eight, log_sum_exp, value_and_gradient

from dinojax.losses.ibot import ibot_loss

GROUPS, TOKENS, PROTOTYPES = 8, 6, 5
CROPS = 4
"""Per group. Tokens 0..2 are of one, 3 and 4 of another, 5 of a third; the fourth is not masked."""
WEIGHTS = np.array([1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2, 1.0])

loss_of = jax.jit(ibot_loss, static_argnames=("images", "temperature"))


def oracle(
    student: np.ndarray,
    teacher: np.ndarray,
    weights: np.ndarray,
    *,
    images: int,
    temperature: float = 0.1,
) -> float:
    """iBOT, Eq. 3: mean over a crop's masked tokens, then over all crops, masked or not."""
    total = 0.0
    for group in range(len(student)):
        for token in range(student.shape[1]):
            logits = student[group, token] / temperature
            log_probs = logits - log_sum_exp(logits)
            total -= weights[group, token] * (teacher[group, token] * log_probs).sum()
    return total / images


def tokens(groups: int = GROUPS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Student logits, teacher probabilities and weights in float64."""
    rng = np.random.default_rng(0)
    sharp = np.exp(2 * rng.normal(size=(groups, TOKENS, PROTOTYPES)))
    student = 0.3 * rng.normal(size=(groups, TOKENS, PROTOTYPES))
    return student, sharp / sharp.sum(axis=-1, keepdims=True), np.tile(WEIGHTS, (groups, 1))


def value(*arrays: np.ndarray, images: int = GROUPS * CROPS) -> float:
    with jax.enable_x64(True):
        return float(loss_of(*(jnp.asarray(x) for x in arrays), images=images))


@pytest.mark.parametrize("temperature", [0.1, 0.25])
@pytest.mark.parametrize("groups", [1, 3])
def test_value_and_gradient(groups, temperature):
    options = {"images": groups * CROPS, "temperature": temperature}
    given = tokens(groups)
    check_loss(partial(ibot_loss, **options), partial(oracle, **options), *given)


def test_every_crop_counts_alike():
    """Of four crops three are masked, however many patches of each: 3/4 of a token's cost."""
    student, teacher, weights = tokens()
    uniform = np.zeros_like(student)
    assert value(uniform, teacher, weights) == pytest.approx(np.log(PROTOTYPES) * 3 / 4)


def test_order_of_tokens_with_their_weights():
    given = tokens()
    order = np.random.default_rng(1).permutation(TOKENS)
    expected = value(*given)
    assert value(*(x[:, order] for x in given)) == pytest.approx(expected, rel=1e-12)
    student, teacher, weights = given
    assert value(student, teacher, weights[:, ::-1]) != pytest.approx(expected, rel=1e-3)


def test_order_of_groups_and_of_prototypes():
    given = tokens()
    rng = np.random.default_rng(1)
    groups, prototypes = rng.permutation(GROUPS), rng.permutation(PROTOTYPES)
    student, teacher, weights = (x[groups] for x in given)
    found = value(student[..., prototypes], teacher[..., prototypes], weights)
    assert found == pytest.approx(value(*given), rel=1e-12)


def test_value_is_the_mean_over_groups():
    given = tokens()
    parts = [value(*(x[[g]] for x in given), images=CROPS) for g in range(GROUPS)]
    assert np.ptp(parts) > 0.1
    assert value(*given) == pytest.approx(np.mean(parts), rel=1e-12)


def test_a_token_without_weight_is_absent():
    student, teacher, weights = tokens()
    weights[:, 2] = 0
    loss = partial(ibot_loss, images=GROUPS * CROPS)
    with jax.enable_x64(True):
        found, gradient = value_and_gradient(loss, student, teacher, weights)
    rest = [np.delete(x, 2, axis=1) for x in (student, teacher, weights)]
    assert found == pytest.approx(value(*rest), rel=1e-12)
    assert not gradient[:, 2].any() and gradient[:, 1].all()


def test_bf16_logits_are_widened():
    student, teacher, weights = (jnp.asarray(x, jnp.float32) for x in tokens())
    rounded = student.astype(jnp.bfloat16)
    found = loss_of(rounded, teacher, weights, images=9)
    assert found.dtype == jnp.float32
    expected = loss_of(rounded.astype(jnp.float32), teacher, weights, images=9)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_eight_devices():
    given = [x.astype(np.float32) for x in tokens()]
    loss = partial(ibot_loss, images=GROUPS * CROPS)
    (found, gradient), program = compile_on_eight(jax.value_and_grad(loss), *given, axis=0)
    expected, expected_gradient = value_and_gradient(loss, *given)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-7)
    assert "all-gather" not in program
