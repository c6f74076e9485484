"""Searches by the mesh and by FAISS: the same neighbours, with exact cosines."""

import contextlib

import jax
import numpy as np
import pytest

from dinojax import mesh
from dinojax.curation import parts, search
from dinojax.curation.search import MISSING, by_faiss, by_mesh, compare, gathered, search_by
from dinojax.curation.sorted_rows import RowFile

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


@pytest.fixture
def file(tmp_path):
    BANK.tofile(tmp_path / "rows.f32")
    return RowFile(tmp_path / "rows.f32", (len(BANK), BANK.shape[1]))


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(("chunk", "loads"), [(50, 120), (1000, 3), (3000, 1)])
def test_chunks_change_no_neighbour(chunk, loads, sharded, file, monkeypatch):
    """The bank comes once for each chunk of the queries, and once in all if it is one chunk."""
    monkeypatch.setattr(search, "PART", 30)
    placed, real = [], parts.place
    monkeypatch.setattr(parts, "place", lambda *given: placed.append(0) or real(*given))
    cosines, order = brute(9)
    with contextlib.ExitStack() as stack:
        if sharded:
            stack.enter_context(jax.set_mesh(mesh.make_mesh(4, 2)))
        found = list(by_mesh(file, QUERIES, 9, chunk=chunk))
    assert len(placed) == loads and max(len(part.index) for part in found) == 30
    np.testing.assert_array_equal(gathered(found).index, order)
    np.testing.assert_allclose(gathered(found).similarity, cosines, atol=1e-6)


@pytest.mark.parametrize("chunk", [3, 4, 10])
def test_equally_near_rows_stay_in_the_banks_order(chunk):
    """Even where a chunk has fewer rows than there are neighbours."""
    bank = np.eye(2, dtype=np.float32)[[0, 1, 0, 0, 1, 0, 0, 0, 1, 0]]
    (found,) = by_mesh(bank, bank[:1], 8, chunk=chunk)
    assert found.index.tolist() == [[0, 2, 3, 5, 6, 7, 9, 1]]


def test_an_index_of_rows_in_a_file(file):
    pytest.importorskip("faiss")
    given = {"index": "IVF16,Flat", "probes": 1, "proposals": 1}
    found, expected = (gathered(by_faiss(one, QUERIES, 300, **given)) for one in (file, BANK))
    assert (found.index == MISSING).any()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


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
    for how, expected in (
        (None, by_mesh(BANK, QUERIES, 5)),
        ("IVF16,Flat", by_faiss(BANK, QUERIES, 5, index="IVF16,Flat", seed=3)),
    ):
        found = gathered(search_by(how, 3, 1000)(BANK, QUERIES, 5))
        np.testing.assert_array_equal(found.index, gathered(expected).index)


def test_without_faiss(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ValueError, match=r"pip install 'dinojax\[curation\]'"):
        search_by("Flat", 0, 1000)
    with pytest.raises(ValueError, match=r"pip install 'dinojax\[curation\]'"):
        by_faiss(BANK, QUERIES, 3)
