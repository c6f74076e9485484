"""AdamW, clipping and the moving average against NumPy, leaf by leaf and element by element."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dinojax.optim.optimizer import AdamW, Rates, clip_by_submodule, ema

SHAPES = {
    "backbone": {
        "embed": {"patch_embed": {"kernel": (2, 3)}, "cls_token": (3,)},
        "blocks": {"mlp": {"kernel": (2, 3, 4), "bias": (2, 4)}},
        "norm": {"scale": (3,)},
    },
    "dino_head": {"last_layer": (3, 4), "mlp": {"bias": (3,)}},
}
DECAY, PATCH = 0.5, 0.2
MULTIPLIERS = {
    "backbone": {
        "embed": {"patch_embed": {"kernel": DECAY**3 * PATCH}, "cls_token": DECAY**3},
        "blocks": {
            "mlp": {
                "kernel": np.array([DECAY**2, DECAY]).reshape(2, 1, 1),
                "bias": np.array([DECAY**2, DECAY]).reshape(2, 1),
            }
        },
        "norm": {"scale": 1.0},
    },
    "dino_head": {"last_layer": 1.0, "mlp": {"bias": 1.0}},
}
DECAYED = {
    "backbone": {
        "embed": {"patch_embed": {"kernel": True}, "cls_token": True},
        "blocks": {"mlp": {"kernel": True, "bias": False}},
        "norm": {"scale": False},
    },
    "dino_head": {"last_layer": True, "mlp": {"bias": False}},
}
BETA1, BETA2, EPSILON, LR, LAST_LR, WEIGHT_DECAY = 0.8, 0.95, 1e-3, 0.1, 0.03, 0.4
RATES = (LR, LAST_LR, WEIGHT_DECAY)


def is_shape(x) -> bool:
    return isinstance(x, tuple)


def random_tree(seed: int, scale: float = 1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: scale * rng.normal(size=s), SHAPES, is_leaf=is_shape)


def adamw(theta, gradients, multiplier, decayed: bool, rate: float):
    """arXiv:1711.05101, Algorithm 2, all steps of one leaf."""
    mean, square = np.zeros_like(theta), np.zeros_like(theta)
    for t, gradient in enumerate(gradients, start=1):
        mean = BETA1 * mean + (1 - BETA1) * gradient
        square = BETA2 * square + (1 - BETA2) * gradient**2
        adam = (mean / (1 - BETA1**t)) / (np.sqrt(square / (1 - BETA2**t)) + EPSILON)
        theta = theta - rate * multiplier * (adam + (WEIGHT_DECAY if decayed else 0) * theta)
    return theta


def test_adamw_over_several_steps():
    optimizer = AdamW(
        BETA1, BETA2, EPSILON, clip_grad=None, layerwise_decay=DECAY, patch_embed_lr_mult=PATCH
    )
    start, gradients = random_tree(0), [random_tree(seed) for seed in (1, 2, 3)]
    rates = jax.tree.map(lambda _: LR, DECAYED)
    rates["dino_head"]["last_layer"] = LAST_LR
    expected = jax.tree.map(
        lambda theta, multiplier, decayed, rate, *grads: adamw(
            theta, grads, multiplier, decayed, rate
        ),
        *(start, MULTIPLIERS, DECAYED, rates, *gradients),
    )
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, start)
        state = optimizer.init(params)
        update_moments, update_params = map(
            jax.jit, (optimizer.update_moments, optimizer.update_params)
        )
        for gradient in gradients:
            state = update_moments(jax.tree.map(jnp.asarray, gradient), state)
            params = update_params(params, state, Rates(*(jnp.asarray(r) for r in RATES)))
    assert state.count == 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), params, expected)


def train(optimizer: AdamW, steps: int) -> tuple[float, optax.ScaleByAdamState]:
    """Mean squared error of a linear regression with noisy gradients, and the last moments."""
    rng = np.random.default_rng(0)
    inputs, truth = rng.normal(size=(64, 32)), rng.normal(size=(32, 16))
    inputs, targets = (jnp.asarray(x, jnp.float32) for x in (inputs, inputs @ truth))
    rates = Rates(jnp.float32(0.02), jnp.float32(0.02), jnp.float32(0.0))

    def error(params, rows):
        return jnp.square(inputs[rows] @ params["dino_head"]["kernel"] - targets[rows]).mean()

    def step(carry, key):
        params, moments = carry
        grads = jax.grad(error)(params, jax.random.choice(key, 64, (8,)))
        moments = optimizer.update_moments(grads, moments)
        return (optimizer.update_params(params, moments, rates), moments), None

    params = {"dino_head": {"kernel": jnp.zeros((32, 16))}}
    keys = jax.random.split(jax.random.key(1), steps)
    start = params, optimizer.init(params)
    (params, moments), _ = jax.jit(lambda keys: jax.lax.scan(step, start, keys))(keys)
    return float(error(params, jnp.arange(64))), moments


def test_short_training_with_bf16_moments():
    """Errors fall about as fast, from 30 to below 1: within a tenth of each other."""
    exact, moments = train(AdamW(), 300)
    found, rounded = train(AdamW(moments_dtype="bfloat16"), 300)
    assert {x.dtype for x in jax.tree.leaves((moments.mu, moments.nu))} == {np.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves((rounded.mu, rounded.nu))} == {jnp.dtype("bfloat16")}
    assert exact < 1
    assert found == pytest.approx(exact, rel=0.1)


def test_bf16_second_moments_decay():
    """By 0.1 % a step, a quarter of what bfloat16 can tell apart: to nearest they never would."""
    optimizer = AdamW(moments_dtype="bfloat16")
    leaf = jnp.full((64, 64), 1.5, jnp.bfloat16)
    none = {"a": jnp.zeros(leaf.shape), "b": jnp.zeros(leaf.shape)}
    state = optimizer.init(none)._replace(nu={"a": leaf, "b": leaf})

    @jax.jit
    def after(state):
        return jax.lax.fori_loop(0, 300, lambda _, s: optimizer.update_moments(none, s), state)

    nu = after(state).nu
    expected = 1.5 * 0.999**300
    assert float(nu["a"].astype(jnp.float32).mean()) == pytest.approx(expected, rel=2e-3)
    assert jnp.asarray(expected, jnp.bfloat16) != 1.5
    assert not np.array_equal(nu["a"], nu["b"]), "leaves share their draws"
    again = jax.tree.map(np.array_equal, nu, after(state).nu)
    assert all(again.values()), "not a function of (seed, step)"


@pytest.mark.parametrize("max_norm", [20.0, 1e-3, 1e4, None])
def test_each_submodule_is_clipped_by_its_own_norm(max_norm):
    grads = random_tree(0)
    grads["dino_head"] = random_tree(1, scale=100)["dino_head"]
    with jax.enable_x64(True):
        given = jax.tree.map(jnp.asarray, grads)
        clipped, norms = jax.jit(clip_by_submodule, static_argnums=1)(given, max_norm)
    assert 10 * float(norms["backbone"]) < float(norms["dino_head"])
    for name, tree in grads.items():
        norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(tree)))
        np.testing.assert_allclose(norms[name], norm, rtol=1e-12)
        factor = 1 if max_norm is None else min(1, max_norm / (norm + 1e-6))
        jax.tree.map(
            lambda found, leaf, f=factor: np.testing.assert_allclose(found, f * leaf, rtol=1e-12),
            clipped[name],
            tree,
        )


def test_ema():
    average, params = random_tree(0), random_tree(1)
    with jax.enable_x64(True):
        given = (jax.tree.map(jnp.asarray, tree) for tree in (average, params))
        found = jax.jit(ema)(*given, jnp.asarray(0.9))
    expected = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, average, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)
