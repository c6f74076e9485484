"""How large a step is, relative to the parameters that it changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import trees
from dinojax.optim.optimizer import AdamW, Rates
from dinojax.ssl.state import init_state
from dinojax.ssl.step import apply_gradients, update_ratios

OPTIMIZER = AdamW(layerwise_decay=0.5, clip_grad=None)
RATES = Rates(jnp.float32(0.02), jnp.float32(0.001), jnp.float32(0))


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), tree)


def step(state, loss=1.0, rates=RATES, seed=2):
    grads, momentum = random_like(state.student, seed), jnp.float32(0.9)
    found = apply_gradients(OPTIMIZER, state, grads, jnp.float32(loss), rates, momentum)
    updated, _, finite = found
    return updated, update_ratios(OPTIMIZER, updated, rates, finite)


@pytest.fixture(scope="module")
def states():
    like = {
        "backbone": {"blocks": {"mlp": {"kernel": jnp.ones((3, 6, 7))}}, "norm": jnp.ones(3)},
        "dino_head": {"last_layer": jnp.ones((6, 9))},
    }
    student = random_like(like, 0)
    first = init_state(student, OPTIMIZER.init(student), None)
    return first, step(first, seed=1)[0]


def test_it_is_what_the_step_changed(states):
    for before in states:
        after, ratios = step(before)
        for name in ("backbone", "dino_head"):
            change = jax.tree.map(jnp.subtract, after.student[name], before.student[name])
            expected = trees.global_norm(change) / trees.global_norm(after.student[name])
            assert float(ratios[name]) == pytest.approx(float(expected), rel=1e-3)
    assert float(ratios["dino_head"]) < 0.2 * float(ratios["backbone"])  # its rate is 20 times less


def test_moments_may_be_in_bfloat16(states):
    plain = step(states[0])[1]
    moments = states[0].moments
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (moments.mu, moments.nu))
    state = states[0]._replace(moments=moments._replace(mu=low[0], nu=low[1]))
    optimizer = OPTIMIZER._replace(moments_dtype="bfloat16")
    grads = random_like(state.student, 2)
    updated, _, finite = apply_gradients(
        optimizer, state, grads, jnp.float32(1), RATES, jnp.float32(0.9)
    )
    for name, ratio in update_ratios(optimizer, updated, RATES, finite).items():
        assert float(ratio) == pytest.approx(float(plain[name]), rel=0.02)


def test_a_frozen_backbone_is_not_updated(states):
    _, ratios = step(states[1], rates=RATES._replace(backbone=jnp.float32(0)))
    assert float(ratios["backbone"]) == 0 < float(ratios["dino_head"])


def test_decay_is_left_out(states):
    decayed = step(states[1], rates=RATES._replace(weight_decay=jnp.float32(0.5)))[1]
    for name, ratio in step(states[1])[1].items():  # of parameters that are 1 % smaller
        assert float(decayed[name]) == pytest.approx(float(ratio), rel=0.02)


def test_a_refused_step_changes_nothing(states):
    for before in states:
        _, ratios = step(before, loss=np.nan)
        assert {float(ratio) for ratio in ratios.values()} == {0}
