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


@pytest.mark.parametrize("how", ["mesh", "Flat"])
def test_neighbours_are_those_of_brute_force(how, monkeypatch):
    monkeypatch.setattr(search, "PART", 30 if how == "mesh" else 1024)
    cosines, order = brute(9)
    if how == "mesh":
        with jax.set_mesh(mesh.make_mesh(4, 2)):
            found = gathered(by_mesh(BANK, QUERIES, 9))
    else:
        pytest.importorskip("faiss")
        found = gathered(by_faiss(BANK, QUERIES, 9))
    np.testing.assert_array_equal(found.index, order)
    np.testing.assert_allclose(found.similarity, cosines, atol=1e-6)


@pytest.mark.parametrize("index", ["IVF16,Flat", "IVF16,PQ16x4fs"])
@pytest.mark.parametrize(("probes", "least", "most"), [(1, 0.0, 0.5), (8, 0.85, 0.999)])
def test_recall_of_some_lists(index, probes, least, most):
    """What is found has its exact cosine."""
    pytest.importorskip("faiss")
    _, order = brute(9)
    found = gathered(by_faiss(BANK, QUERIES, 9, index=index, probes=probes, proposals=20))
    common = [np.isin(a, b) for a, b in zip(found.index, order, strict=True)]
    print(f"{index}, {probes} lists: {np.mean(common):.3f}")
    assert least <= np.mean(common) <= most
    assert (found.index[:, 0] == order[:, 0]).mean() > least
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (BANK, QUERIES))
    expected = np.einsum("mkd,md->mk", bank[found.index], queries)
    np.testing.assert_allclose(found.similarity, expected, atol=1e-6)


@pytest.fixture
def file(tmp_path):
    BANK.tofile(tmp_path / "rows.f32")
    return RowFile(tmp_path / "rows.f32", (len(BANK), BANK.shape[1]))


@pytest.mark.parametrize(
    ("chunk", "loads", "sharded"), [(50, 120, False), (1000, 3, True), (3000, 1, False)]
)
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


def by_name(index, width=32, **given):
    given = {"probes": 16, "seed": 3, "chunk": 1000, "name": "dedup.index"} | given
    return search_by(index, width, **given)


def test_by_name():
    pytest.importorskip("faiss")
    for how, expected in (
        (None, by_mesh(BANK, QUERIES, 5)),
        ("IVF64,Flat", by_faiss(BANK, QUERIES, 5, index="IVF64,Flat", probes=3, seed=3)),
    ):
        found = gathered(by_name(how, probes=3)(BANK, QUERIES, 5))
        np.testing.assert_array_equal(found.index, gathered(expected).index)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("IVF16,Flatt", r"dedup.index='IVF16,Flatt' is no index of FAISS .*could not parse.*; use"),
        ("IVF16,PQ5", r"dedup.index='IVF16,PQ5' is no index of FAISS for rows of width 32 "),
        ("PQ16", r"dedup.index='PQ16' learns from rows .* use it with some, as 'IVF4096,PQ16'"),
    ],
)
def test_indices_that_faiss_does_not_have(index, message):
    """All that depends on the name and the width is said before there is a row."""
    pytest.importorskip("faiss")
    with pytest.raises(ValueError, match=message):
        by_name(index)


@pytest.mark.parametrize(("index", "rows"), [("IVF16,Flat", 15), ("IVF4,PQ16", 255)])
def test_banks_too_small_for_an_index_are_searched_exactly(index, rows):
    pytest.importorskip("faiss")
    found, expected = (
        gathered(by_faiss(BANK[:rows], QUERIES, 9, index=one, probes=1)) for one in (index, "Flat")
    )
    np.testing.assert_array_equal(found.index, expected.index)


def test_gpus_get_what_they_can_search(monkeypatch):
    faiss = pytest.importorskip("faiss")
    sent = []
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda one: sent.append(one) or one)
    for index, count in (("IVF16,Flat", 1), ("IVF16,PQ16x4fs", 1), ("HNSW8", 1), ("Flat", 2)):
        gathered(by_faiss(BANK, QUERIES[:2], 3, index=index))
        assert len(sent) == count


def test_without_faiss(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ValueError, match=r"pip install 'dinojax\[curation\]'"):
        by_name("Flat")
    with pytest.raises(ValueError, match=r"pip install 'dinojax\[curation\]'"):
        by_faiss(BANK, QUERIES, 3)
