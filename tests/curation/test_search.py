"""Searches by the mesh and by FAISS: the same neighbours, with exact cosines."""

import jax
import numpy as np
import pytest

from dinojax import mesh
from dinojax.curation import search
from dinojax.curation.search import MISSING, by_faiss, by_mesh, compare, gathered, search_by

RNG = np.random.default_rng(0)
BANK = RNG.normal(size=(3000, 32)).astype(np.float32) * RNG.uniform(1, 9, (3000, 1)).astype("f")
QUERIES = BANK[:70] + 0.5 * RNG.normal(size=(70, 32)).astype(np.float32)


def brute(k):
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (BANK, QUERIES))
    cosines = queries.astype(float) @ bank.astype(float).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, 1), order


@pytest.fixture(autouse=True)
def several_parts(monkeypatch):
    monkeypatch.setattr(search, "PART", 1024)
    monkeypatch.setattr(search, "COMPARED", 32)


@pytest.mark.parametrize("how", ["mesh", "Flat", "IVF16,PQ16x4fs"])
def test_neighbours_are_those_of_brute_force(how, monkeypatch):
    monkeypatch.setattr(search, "PART", 30 if how == "mesh" else 1024)
    cosines, order = brute(9)
    if how == "mesh":
        with jax.set_mesh(mesh.make_mesh(4, 2)):
            found = gathered(by_mesh(BANK, QUERIES, 9))
    else:
        pytest.importorskip("faiss")
        found = gathered(by_faiss(BANK, QUERIES, 9, index=how, probes=16, proposals=40))
    np.testing.assert_array_equal(found.index, order)
    np.testing.assert_allclose(found.similarity, cosines, atol=1e-6)


def test_fewer_rows_than_neighbours():
    pytest.importorskip("faiss")
    for find in (by_mesh, by_faiss):
        found = gathered(find(BANK[:5], QUERIES[:3], 9))
        assert found.index.shape == (3, 5) and (np.sort(found.index, axis=1) == np.arange(5)).all()


def test_what_lists_do_not_hold_is_missing():
    pytest.importorskip("faiss")
    found = gathered(by_faiss(BANK[:1024], QUERIES, 300, index="IVF16,Flat", probes=1, proposals=1))
    missing = found.index == MISSING
    assert missing[:, -1].all() and not missing[:, 0].any()
    assert (found.similarity[missing] == -1).all() and (found.similarity[~missing] > -1).all()
    assert (np.diff(found.similarity, axis=1) <= 0).all()


def test_comparison_is_exact_and_ties_are_in_the_banks_order():
    bank = np.asarray([[1, 0], [0, 2], [3, 0], [1, 1]], np.float32)
    proposed = np.asarray([[3, 2, MISSING, 0]])
    found = compare(bank, np.asarray([[5, 0]], np.float32), proposed, 3)
    assert found.index.tolist() == [[0, 2, 3]]
    np.testing.assert_allclose(found.similarity, [[1, 1, 0.5**0.5]], rtol=1e-6)


def test_by_name():
    pytest.importorskip("faiss")
    assert search_by(None, 0) is by_mesh
    found = gathered(search_by("IVF16,Flat", 3)(BANK, QUERIES, 5))
    expected = gathered(by_faiss(BANK, QUERIES, 5, index="IVF16,Flat", seed=3))
    np.testing.assert_array_equal(found.index, expected.index)


def test_without_faiss(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ValueError, match=r"pip install 'dinojax\[curation\]'"):
        search_by("Flat", 0)
    with pytest.raises(ValueError, match=r"pip install 'dinojax\[curation\]'"):
        by_faiss(BANK, QUERIES, 3)
