"""Spherical k-means: it finds clusters, and nothing but rows and key decide which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import mesh as meshes
from dinojax.ssl import kmeans
from dinojax.ssl.kmeans import plus_plus, spherical_kmeans

KEY = jax.random.key(3)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def clusters():
    """Seven directions, and noisy rows around each: few around some, many around others."""
    rng = np.random.default_rng(0)
    directions = unit(rng.standard_normal((7, 12)))
    rows = np.repeat(directions, [5, 60, 5, 40, 5, 5, 80], axis=0)
    rows = unit(rows + 0.03 * rng.standard_normal(rows.shape)).astype(np.float32)
    return directions, jnp.asarray(rng.permutation(rows))


def inertia(rows, centers) -> float:
    rows = np.asarray(rows)
    return float((1 - (rows @ np.asarray(centers).T).max(axis=1)).mean())


def test_it_finds_clusters_of_any_size(clusters):
    directions, rows = clusters
    centers = spherical_kmeans(rows, 7, KEY)
    np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 1, rtol=1e-6)
    cosines = directions @ np.asarray(centers).T
    assert (cosines.max(axis=1) > 0.99).all() and set(cosines.argmax(axis=1)) == set(range(7))


def test_it_is_better_than_random_rows_and_than_its_seeds(clusters):
    _, rows = clusters
    chosen = np.random.default_rng(1).choice(len(rows), 7, replace=False)
    seeds = rows[plus_plus(rows, 7, KEY)]
    found = inertia(rows, spherical_kmeans(rows, 7, KEY))
    assert found < 0.9 * inertia(rows, seeds) and found < 0.5 * inertia(rows, rows[chosen])


def test_centres_are_the_directions_of_their_rows(clusters):
    _, rows = clusters
    centers = np.asarray(spherical_kmeans(rows, 5, KEY, iterations=30))
    rows = np.asarray(rows)
    nearest = (rows @ centers.T).argmax(axis=1)
    for index, center in enumerate(centers):
        np.testing.assert_allclose(center, unit(rows[nearest == index].sum(axis=0)), atol=1e-6)


def test_neither_pieces_nor_devices_matter(clusters, monkeypatch):
    _, rows = clusters
    whole = np.asarray(spherical_kmeans(rows, 7, KEY))
    mesh = meshes.make_mesh(4, 2)
    with jax.set_mesh(mesh):
        run = jax.jit(spherical_kmeans, static_argnums=1, out_shardings=meshes.replicated(mesh))
        np.testing.assert_array_equal(
            run(rows, 7, KEY), jax.jit(spherical_kmeans, static_argnums=1)(rows, 7, KEY)
        )
    monkeypatch.setattr(kmeans, "LOGITS", 7 * 23)  # 9 pieces, the last one not full
    np.testing.assert_allclose(spherical_kmeans(rows, 7, KEY), whole, atol=1e-6)


def test_seeds_differ_as_long_as_rows_do():
    rows = jnp.asarray(unit(np.random.default_rng(2).standard_normal((40, 3))), jnp.float32)
    twice = jnp.concatenate([rows, rows])
    chosen = plus_plus(twice, 40, KEY) % 40
    assert sorted(chosen.tolist()) == list(range(40))
    assert plus_plus(twice, 40, jax.random.key(4)).tolist() != plus_plus(twice, 40, KEY).tolist()


def test_more_centres_than_rows_are_refused(clusters):
    with pytest.raises(ValueError, match=r"count=9 centres need as many rows, and there are 8"):
        spherical_kmeans(clusters[1][:8], 9, KEY)
