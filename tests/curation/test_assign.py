"""Labels by their definition, whatever computes them, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clouds import blobs, brute_labels

from dinojax import mesh
from dinojax.curation import assign as module
from dinojax.curation.assign import assign, by_products, nearest
from dinojax.curation.parts import place

BOTH = ("bfloat16", "float32")


def labels(rows, centers, dtypes=None):
    found = assign(place(rows), jnp.asarray(centers), dtypes)
    return np.asarray(found.label)[: len(rows)], np.asarray(found.distance)[: len(rows)]


@pytest.mark.parametrize("dtypes", [(), ("float32",), BOTH])
def test_matches_brute_force(dtypes):
    rows, centers = blobs(centers=40, width=9)
    expected, squares = brute_labels(rows, centers)
    label, distance = labels(rows, centers, dtypes)
    np.testing.assert_array_equal(label, expected)
    np.testing.assert_allclose(distance, squares, rtol=1e-5)


def hard(rows=300):
    """Rows far from the origin, and centres that bfloat16 cannot tell apart; some are equal."""
    rng = np.random.default_rng(3)
    base = rng.normal(size=(5, 8)) + 30
    centers = np.repeat(base, 6, axis=0) + 3e-3 * rng.normal(size=(30, 8))
    centers[7], centers[20] = centers[6], centers[3]
    chosen = rng.integers(0, 30, rows)
    noise = 2e-3 * rng.normal(size=(rows, 8))
    return (centers[chosen] + noise).astype(np.float32), centers.astype(np.float32)


def test_near_ties_are_decided_by_the_definition():
    rows, centers = hard()
    by_definition, _ = labels(rows, centers, ())
    expected, _ = brute_labels(rows, centers)
    assert (by_definition == expected).mean() > 0.99 and not np.isin(by_definition, [7, 20]).any()
    unchecked = by_products(jnp.asarray(rows), jnp.asarray(centers), "bfloat16")[0].index
    assert (np.asarray(unchecked) != expected).mean() > 0.2  # there is something to decide
    np.testing.assert_array_equal(labels(rows, centers, BOTH)[0], by_definition)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_products_are_as_wrong_as_they_say(dtype):
    rows, centers = hard()
    best, bound = by_products(jnp.asarray(rows), jnp.asarray(centers), dtype)
    middle = np.asarray(jnp.asarray(centers).mean(axis=0)).astype(float)
    exact = np.square(rows[:, None].astype(float) - centers.astype(float)).sum(2)
    exact = np.sort(exact - np.square(rows - middle).sum(axis=1, keepdims=True), axis=1)
    wrong = np.abs(np.stack([best.value, best.second], axis=1) - exact[:, :2])
    assert (wrong < np.asarray(bound)[:, None]).all()
    assert (wrong.max(axis=1) > np.asarray(bound) / 300).any()  # and not much less


def test_neither_tiles_nor_packets_matter(monkeypatch):
    rows, centers = hard()
    whole = labels(rows, centers)
    monkeypatch.setattr(module, "CENTER_TILE", 8)  # the fourth is not full
    monkeypatch.setattr(module, "PACKET", 23)
    monkeypatch.setattr(module, "LAST_PACKET", 3)
    padded = jnp.asarray(np.pad(rows, ((0, 1), (0, 0))))
    tiled = jax.jit(nearest, static_argnums=2)(padded, jnp.asarray(centers), BOTH)
    np.testing.assert_array_equal(tiled[:-1], whole[0])


@pytest.mark.parametrize("sizes", [(4, 2, 1), (2, 1, 4), (1, 1, 8)])
def test_devices_do_not_matter(sizes):
    """30 centres on 8 devices need two copies."""
    rows, centers = hard()
    alone = labels(rows, centers)
    with jax.set_mesh(mesh.make_mesh(*sizes)):
        np.testing.assert_array_equal(labels(rows, centers), alone)


def test_half_precision_rows_are_taken_as_they_are():
    rows, centers = blobs(centers=5)
    half = rows.astype(np.float16)
    expected, squares = brute_labels(half, centers)
    label, distance = labels(half, centers)
    np.testing.assert_array_equal(label, expected)
    np.testing.assert_allclose(distance, squares, rtol=1e-5)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match=r"shape \(0, 5\); give at least 1 row"):
        place(np.zeros((0, 5), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("dtypes", [("float32",), BOTH])
def test_all_labels_are_those_of_faiss(dtypes):
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(32768, 128)).astype(np.float32)
    centers = rng.normal(size=(4096, 128)).astype(np.float32)
    index = faiss.IndexFlatL2(128)
    index.add(centers)
    squares, label = index.search(rows, 1)
    own, distance = labels(rows, centers, dtypes)
    assert (own == label[:, 0]).mean() > 0.99995  # two of them differ by less than a float32
    np.testing.assert_allclose(distance, squares[:, 0], rtol=1e-4)
