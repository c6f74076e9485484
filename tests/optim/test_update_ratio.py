"""How large a step is, relative to the parameters that it changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import trees
from dinojax.optim.optimizer import AdamW, Rates
from dinojax.ssl.state import init_state
from dinojax.ssl.step import apply_gradients, update_ratios

RNG = np.random.default_rng(0)
OPTIMIZER = AdamW(layerwise_decay=0.5, clip_grad=None)
RATES = Rates(jnp.float32(0.02), jnp.float32(0.001), jnp.float32(0.3))


def random_like(tree):
    return jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape), jnp.float32), tree)


def step(state, loss=1.0):
    grads = random_like(state.student)
    momentum = jnp.float32(0.9)
    updated, _, finite = apply_gradients(
        OPTIMIZER, state, grads, jnp.float32(loss), RATES, momentum
    )
    return updated, update_ratios(OPTIMIZER, updated, RATES, finite)


@pytest.fixture(scope="module")
def states():
    student = random_like(
        {
            "backbone": {"blocks": {"mlp": {"kernel": jnp.ones((3, 6, 7))}, "norm": jnp.ones(3)}},
            "dino_head": {"last_layer": jnp.ones((6, 9))},
        }
    )
    first = init_state(student, OPTIMIZER.init(student), None)
    second, _ = step(first)
    return first, second


def test_it_is_what_the_step_changed(states):
    for before in states:
        after, ratios = step(before)
        for name in ("backbone", "dino_head"):
            change = jax.tree.map(jnp.subtract, after.student[name], before.student[name])
            expected = trees.global_norm(change) / trees.global_norm(after.student[name])
            # Decay at the new parameters: a factor of 1 - 0.02 * 0.3 where there is nothing else.
            assert float(ratios[name]) == pytest.approx(float(expected), rel=6e-3)
    assert float(ratios["dino_head"]) < 0.2 * float(ratios["backbone"])  # its rate is 20 times less


def test_a_refused_step_changes_nothing(states):
    for before in states:
        _, ratios = step(before, loss=np.nan)
        assert {float(ratio) for ratio in ratios.values()} == {0}
