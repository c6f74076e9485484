"""Softmax targets around a moving-average centre, against NumPy over several steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import compile_on_eight, log_sum_exp

from dinojax.losses.centering import softmax_center, update_center

STEPS, VIEWS, IMAGES, PROTOTYPES = 5, 2, 8, 6
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(STEPS, VIEWS, IMAGES, PROTOTYPES)) + RNG.normal(size=PROTOTYPES)
CENTER = RNG.normal(size=PROTOTYPES)

probs_of = jax.jit(softmax_center)
moved = jax.jit(update_center, static_argnames="momentum")


def oracle(logits: np.ndarray, center: np.ndarray, temperature: float) -> np.ndarray:
    """DINO, Eq. 1 with the centre of section 3.1 taken off the teacher's logits."""
    probs = np.empty_like(logits)
    for index in np.ndindex(logits.shape[:-1]):
        scaled = (logits[index] - center) / temperature
        probs[index] = np.exp(scaled - log_sum_exp(scaled))
    return probs


@pytest.mark.parametrize("temperature", [0.004, 0.04, 0.1])
def test_targets(temperature):
    with jax.enable_x64(True):
        found = np.asarray(probs_of(jnp.asarray(LOGITS[0]), jnp.asarray(CENTER), temperature))
    expected = oracle(LOGITS[0], CENTER, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 1.0])
def test_center_over_several_steps(momentum):
    """DINO, Eq. 4, unrolled: step i weighs (1 - m) m^(steps after it), the start the rest."""
    with jax.enable_x64(True):
        center = jnp.asarray(CENTER)
        for logits in LOGITS:
            center = moved(center, jnp.asarray(logits), momentum=momentum)
    expected = momentum**STEPS * CENTER
    for step, logits in enumerate(LOGITS):
        rows = [logits[view, image] for view in range(VIEWS) for image in range(IMAGES)]
        expected = expected + (1 - momentum) * momentum ** (STEPS - 1 - step) * np.mean(rows, 0)
    np.testing.assert_allclose(center, expected, rtol=1e-12)


def test_momentum_is_the_references():
    with jax.enable_x64(True):
        given = jnp.asarray(CENTER), jnp.asarray(LOGITS[0])
        np.testing.assert_array_equal(moved(*given), moved(*given, momentum=0.9))


def test_a_prototype_that_all_rows_prefer_is_pulled_back():
    """Once the centre knows an offset of a prototype, the targets no longer show it."""
    offset = np.zeros(PROTOTYPES)
    offset[2] = 4.0
    with jax.enable_x64(True):
        start, plain = jnp.zeros(PROTOTYPES), jnp.asarray(LOGITS[0])
        before, after = (
            probs_of(logits, moved(start, logits, momentum=0.0), 0.1)
            for logits in (plain, plain + jnp.asarray(offset))
        )
        assert (probs_of(plain + jnp.asarray(offset), start, 0.1)[..., 2] > 0.99).mean() > 0.5
    np.testing.assert_allclose(after, before, rtol=1e-10)


def test_order_of_rows_and_of_prototypes():
    prototypes = np.random.default_rng(1).permutation(PROTOTYPES)
    given = LOGITS[0]
    with jax.enable_x64(True):
        center, logits = jnp.asarray(CENTER), jnp.asarray(given)
        shuffled = jnp.asarray(given[:, ::-1][..., prototypes])
        other = center[prototypes]
        found = probs_of(shuffled, other, 0.1), moved(other, shuffled)
        expected = probs_of(logits, center, 0.1), moved(center, logits)
    np.testing.assert_allclose(found[0], expected[0][:, ::-1][..., prototypes], rtol=1e-12)
    np.testing.assert_allclose(found[1], expected[1][prototypes], rtol=1e-12)


def test_far_logits_in_float32():
    logits = jnp.array([[250.0, 0.0, -250.0], [-250.0, -250.0, -250.0]]) * 0.004
    found = probs_of(logits, jnp.zeros(3), 0.004)
    np.testing.assert_allclose(found, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], atol=1e-7)


def test_bf16_logits_are_averaged_in_float32():
    """A bf16 sum of these would stop at 256."""
    logits = jnp.ones((1000, 3), jnp.bfloat16)
    center = moved(jnp.zeros(3), logits, momentum=0.0)
    assert center.dtype == probs_of(logits, center, 0.1).dtype == jnp.float32
    np.testing.assert_array_equal(center, 1)


def test_eight_devices_share_one_center():
    logits = LOGITS[0].astype(np.float32)

    def step(logits):
        center = jnp.asarray(CENTER, jnp.float32)
        return update_center(center, logits), softmax_center(logits, center, 0.1)

    (found, probs), program = compile_on_eight(step, logits, axis=1)
    expected, expected_probs = jax.jit(step)(jnp.asarray(logits))
    assert found.is_fully_replicated and "all-gather" not in program
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(probs, expected_probs, rtol=1e-6, atol=1e-7)
