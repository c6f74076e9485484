"""KoLeo against a loop over images and their neighbours."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import check_loss, compile_on_eight, round_factors, value_and_gradient

from dinojax.losses.koleo import EPSILON, koleo_loss

IMAGES, WIDTH = 16, 5
FEATURES = np.random.default_rng(0).normal(size=(IMAGES, WIDTH))

loss_of = jax.jit(koleo_loss, static_argnames=("group_size", "topk"))


def oracle(features: np.ndarray, *, group_size: int | None = None, topk: int = 1) -> float:
    """arXiv:1806.03198, Eq. 3: minus the mean logarithm of the distance to the nearest neighbours.

    Two constants are the reference's: one added to each difference, one to each distance.
    """
    size = group_size or len(features)
    terms = []
    for start in range(0, len(features), size):
        group = [x / max(np.sqrt((x**2).sum()), 1e-8) for x in features[start : start + size]]
        for i, x in enumerate(group):
            others = [y for j, y in enumerate(group) if j != i]
            nearest = sorted(others, key=lambda y, x=x: -(x * y).sum())[:topk]
            terms.extend(-np.log(np.sqrt(((x - y + 1e-8) ** 2).sum()) + 1e-8) for y in nearest)
    return float(np.mean(terms))


def value(features: np.ndarray, **options: int | None) -> float:
    with jax.enable_x64(True):
        return float(loss_of(jnp.asarray(features), **options))


@pytest.mark.parametrize(
    ("group_size", "topk"),
    [(None, 1), (None, 2), (8, 3), (4, 1), (4, 3), (2, 1)],
)
def test_value_and_gradient(group_size, topk):
    options = {"group_size": group_size, "topk": topk}
    check_loss(partial(koleo_loss, **options), partial(oracle, **options), FEATURES)


def test_value_is_the_mean_over_groups():
    parts = [value(group, topk=2) for group in FEATURES.reshape(4, 4, WIDTH)]
    assert np.ptp(parts) > 0.01
    assert value(FEATURES, group_size=4, topk=2) == pytest.approx(np.mean(parts), rel=1e-12)
    assert value(FEATURES, topk=2) > np.mean(parts), "more images have nearer neighbours"


def test_order_of_images_in_a_group_and_of_groups():
    rng = np.random.default_rng(1)
    grouped = FEATURES.reshape(4, 4, WIDTH)
    inside = np.stack([rng.permutation(group) for group in grouped])[rng.permutation(4)]
    expected = value(FEATURES, group_size=4, topk=2)
    found = value(inside.reshape(-1, WIDTH), group_size=4, topk=2)
    assert found == pytest.approx(expected, rel=1e-12)
    across = np.swapaxes(grouped, 0, 1).reshape(-1, WIDTH)
    assert value(across, group_size=4, topk=2) != pytest.approx(expected, rel=1e-3)


def test_lengths_and_rotations_change_nothing():
    lengths = np.random.default_rng(1).uniform(0.1, 10, (IMAGES, 1))
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(WIDTH, WIDTH)))
    expected = value(FEATURES, topk=2)
    for other in (lengths * FEATURES, FEATURES @ rotation):
        assert value(other, topk=2) == pytest.approx(expected, rel=1e-6)  # up to the constants


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_duplicates_cost_much_and_stay_finite(dtype):
    """Distance zero: only the reference's constants are left."""
    features = FEATURES.copy()
    features[3] = features[2]
    with jax.enable_x64(dtype == np.float64):
        found, gradient = value_and_gradient(koleo_loss, features.astype(dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, oracle(features), rtol=1e-5)
    cost = -np.log(EPSILON * np.sqrt(WIDTH) + EPSILON)
    assert float(found) > cost / IMAGES
    assert np.isfinite(gradient).all()


def test_a_group_of_copies():
    features = jnp.ones((8, WIDTH))
    expected = -np.log(EPSILON * np.sqrt(WIDTH) + EPSILON)
    found, gradient = value_and_gradient(partial(koleo_loss, topk=3), features)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("topk", [1, 2, 3])
def test_ties_are_different_neighbours(topk):
    """Images at right angles are all sqrt(2) apart; the first has a copy, and no second one."""
    features = np.concatenate([np.eye(4), 3 * np.eye(4)[:1]])
    copies, others = 2, 2 * (topk - 1) + 3 * topk
    closest = -np.log(EPSILON * np.sqrt(4) + EPSILON)
    expected = (copies * closest - others * np.log(np.sqrt(2))) / (5 * topk)
    assert value(features, topk=topk) == pytest.approx(expected, rel=1e-6)


def test_an_image_is_never_its_own_neighbour():
    """Not even if all others point the other way."""
    features = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert value(features) == pytest.approx(-np.log(2), rel=1e-6)


def test_a_feature_of_zeros_is_finite():
    features = FEATURES.astype(np.float32)
    features[5] = 0
    found, gradient = value_and_gradient(koleo_loss, features)
    np.testing.assert_allclose(found, oracle(features.astype(np.float64)), rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_bf16_features_are_widened():
    rounded = jnp.asarray(FEATURES, jnp.bfloat16)
    found, gradient = value_and_gradient(koleo_loss, rounded)
    assert found.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(found, loss_of(rounded.astype(jnp.float32)), rtol=1e-6)


def test_neighbours_among_rows_that_are_alike(monkeypatch):
    """At cosines of 0.99; wrong neighbours are further away, and cost less."""
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=384) + 0.1 * rng.normal(size=(64, 384)), jnp.float32)
    expected = oracle(np.asarray(features, np.float64))
    round_factors(monkeypatch)
    assert float(koleo_loss(features)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("group_size", "travels"), [(2, False), (4, True), (8, True), (None, True)]
)
def test_eight_devices(group_size, travels):
    """Groups that lie whole on a device need no others' features; those of several devices do."""
    features = FEATURES.astype(np.float32)
    loss = partial(koleo_loss, group_size=group_size)
    (found, gradient), program = compile_on_eight(jax.value_and_grad(loss), features, axis=0)
    expected, expected_gradient = value_and_gradient(loss, features)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)
    assert ("all-gather" in program) == travels


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group_size": 5}, r"koleo_group_size=5 does not divide the batch of 16 images; use a"),
        ({"group_size": 32}, r"koleo_group_size=32 does not divide the batch of 16 images"),
        ({"topk": 16}, r"koleo_topk=16 neighbours need groups of at least 17 images, not 16"),
        (
            {"group_size": 2, "topk": 2},
            r"koleo_topk=2 neighbours need groups of at least 3 images, not 2",
        ),
        ({"group_size": 1}, r"koleo_topk=1 neighbours need groups of at least 2 images, not 1"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        koleo_loss(jnp.asarray(FEATURES, jnp.float32), **options)
