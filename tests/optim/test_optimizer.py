"""AdamW, clipping and the moving average against NumPy, leaf by leaf and element by element."""

import jax
import jax.numpy as jnp
import numpy as np
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
