"""Seeded prototypes: targets that tell clusters apart at once, in heads of both systems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.losses.entropy import mean_entropy
from dinojax.models.head import DinoHead
from dinojax.precision import POLICIES
from dinojax.ssl.prototypes import seed_prototypes, with_prototypes

KEY = jax.random.key(0)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def rows():
    """Bottleneck features of eight clusters that have most in common: cosines of 0.8 and more."""
    rng = np.random.default_rng(0)
    directions = unit(rng.standard_normal((8, 16)))
    common = 2.5 * unit(rng.standard_normal(16))
    kinds = np.arange(200) % 8
    noise = 0.05 * rng.standard_normal((200, 16))
    return kinds, jnp.asarray(unit(common + directions[kinds] + noise), jnp.float32)


def test_targets_are_the_clusters(rows):
    kinds, features = rows
    columns = seed_prototypes(features, 8, KEY)
    np.testing.assert_allclose(np.linalg.norm(columns, axis=0), 1, rtol=1e-6)
    probs = jax.nn.softmax(features @ columns / 0.05)
    chosen = np.asarray(probs.argmax(axis=1))
    assert len({(kind, one) for kind, one in zip(kinds, chosen, strict=True)}) == 8
    random = 0.02 * np.random.default_rng(1).standard_normal((16, 8))
    shares = [
        mean_entropy(jax.nn.softmax(features @ x / 0.05)) / np.log(8) for x in (columns, random)
    ]
    assert shares[0] < 0.3 and shares[1] > 0.95


def test_what_all_prototypes_share_is_taken_out(rows):
    columns = np.asarray(seed_prototypes(rows[1], 8, KEY))
    assert abs((columns.T @ unit(np.asarray(rows[1]).mean(axis=0))).mean()) < 0.1


@pytest.mark.parametrize("prototypes", [10, 64])
def test_fewer_features_than_prototypes(rows, prototypes):
    columns = np.asarray(seed_prototypes(rows[1][:9], prototypes, KEY)).T
    assert columns.shape == (prototypes, 16) and np.isfinite(columns).all()
    np.testing.assert_allclose(np.linalg.norm(columns, axis=1), 1, rtol=1e-6)
    # Of nine clusters there are 36 pairs, so a few of 55 midpoints are drawn again.
    assert len(np.unique(columns.round(4), axis=0)) >= min(prototypes, 9 + 18)


def test_one_feature_is_not_enough(rows):
    with pytest.raises(ValueError, match="at least 2 bottleneck features, not 1"):
        seed_prototypes(rows[1][:1], 4, KEY)


@pytest.mark.parametrize("weight_norm", [False, True])
def test_a_head_takes_them(rows, weight_norm):
    head = DinoHead(
        8, POLICIES["float32"], hidden_dim=6, bottleneck_dim=16, weight_norm=weight_norm
    )
    params = head.init(KEY, jnp.zeros((1, 4)))["params"]
    if weight_norm:
        params["last_layer_gain"] *= 3
    columns = seed_prototypes(rows[1], 8, KEY)
    found = head.apply({"params": with_prototypes(params, columns)}, method="prototype_columns")
    np.testing.assert_allclose(found, columns, rtol=1e-6)
