"""Exact nearest rows against NumPy, on one device and on eight."""

import jax
import numpy as np
import pytest

from dinojax import mesh
from dinojax.evaluation import nearest as module
from dinojax.evaluation.nearest import nearest, search

RNG = np.random.default_rng(0)
BANK = RNG.normal(size=(203, 6)).astype(np.float32) * RNG.uniform(1, 9, (203, 1)).astype("f")
QUERIES = RNG.normal(size=(31, 6)).astype(np.float32)


def oracle(k):
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (BANK, QUERIES))
    cosines = queries.astype(float) @ bank.astype(float).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, 1), order


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("k", [3, 40])
def test_matches_numpy(k, sharded):
    """203 rows on 8 devices: 26 each with a filling, so 40 come from several."""
    if sharded:
        with jax.set_mesh(mesh.make_mesh(2, 4)):
            found = nearest(BANK, QUERIES, k)
    else:
        found = nearest(BANK, QUERIES, k)
    cosines, order = oracle(k)
    np.testing.assert_array_equal(found.index, order)
    np.testing.assert_allclose(found.similarity, cosines, atol=1e-6)


def test_equally_near_rows_stay_in_the_banks_order():
    bank = np.eye(2, dtype=np.float32)[[0, 1, 0, 0, 1, 0, 0, 0, 1, 0]]
    with jax.set_mesh(mesh.make_mesh(1, 8)):
        found = nearest(bank, bank[:1], 7)
    assert found.index.tolist() == [[0, 2, 3, 5, 6, 7, 9]]


def test_no_device_sees_all_similarities(monkeypatch):
    """What is exchanged are the best of each part: 8 x 3 per query, not 203. And of the bank."""
    given = []

    def spy(*args, **options):
        given.append((args, options))
        return search(*args, **options)

    monkeypatch.setattr(module, "search", spy)
    with jax.set_mesh(mesh.make_mesh(1, 8)):
        nearest(BANK, QUERIES, 3)
        ((bank, queries), options) = given[0]
        compiled = search.lower(bank, queries, **options).compile()
    lines = compiled.as_text().splitlines()
    gathered = [line for line in lines if "all-gather(" in line]
    assert gathered and all("[31,24]" in line for line in gathered)
    assert bank.shape == (208, 6)
    assert compiled.input_shardings[0][0].shard_shape(bank.shape) == (26, 6)
