"""Nearest neighbours on the unit sphere."""

import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.evaluation.neighbours import CHUNK, nearest_distances
from dinojax.losses.koleo import koleo_loss

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("count", [2, 37, CHUNK + 3])
def test_numpy_oracle(count):
    features = RNG.normal(size=(count, 6)).astype(np.float32)
    unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    apart = np.linalg.norm(unit[:, None] - unit, axis=-1) + 9 * np.eye(count)
    np.testing.assert_allclose(nearest_distances(features), apart.min(axis=1), atol=1e-5)


def test_it_is_what_koleo_spreads():
    features = jnp.asarray(RNG.normal(size=(32, 8)), jnp.float32)
    mean = -jnp.log(nearest_distances(features)).mean()
    assert float(mean) == pytest.approx(float(koleo_loss(features)), abs=1e-4)


def test_length_and_order_do_not_matter():
    features = RNG.normal(size=(20, 5)).astype(np.float32)
    longer = features * RNG.uniform(0.1, 9, (20, 1)).astype(np.float32)
    order = RNG.permutation(20)
    found = nearest_distances(features)
    np.testing.assert_allclose(nearest_distances(longer[order]), found[order], atol=1e-5)


def test_equal_rows_are_at_distance_0():
    row = RNG.normal(size=(1, 300)).astype(np.float32)
    assert float(nearest_distances(np.repeat(row, 3, axis=0)).max()) < 1e-6


def test_one_row_has_no_neighbour():
    with pytest.raises(ValueError, match="1 rows"):
        nearest_distances(np.ones((1, 4), np.float32))
