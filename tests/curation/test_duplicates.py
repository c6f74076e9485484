"""Copies planted among random vectors: found by every index, and nothing else with them."""

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dinojax.curation.duplicates import (
    Pairs,
    components,
    holding,
    representatives,
)
from dinojax.curation.pairs import similar_pairs
from dinojax.curation.search import by_faiss, by_mesh, gathered
from dinojax.evaluation.nearest import Neighbours


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def near(rows, cosine, rng):
    """A vector at this cosine of each row."""
    noise = rng.normal(size=rows.shape)
    noise = unit(noise - (noise * rows).sum(1, keepdims=True) * rows)
    return cosine[:, None] * rows + np.sqrt(1 - cosine**2)[:, None] * noise


def planted(sources, copies, width, seed=0):
    """(rows, the source of each): copies at cosines U(0.65, 0.98) of random sources."""
    rng = np.random.default_rng(seed)
    rows = unit(rng.normal(size=(sources, width)))
    source = rng.integers(0, sources, copies)
    copied = near(rows[source], rng.uniform(0.65, 0.98, copies), rng)
    every = np.concatenate([np.arange(sources), source])
    order = rng.permutation(len(every))
    return np.concatenate([rows, copied])[order].astype(np.float32), every[order]


def pairs_within(label, other=None):
    """How many pairs of rows have one label, or one of both kinds."""
    if other is not None:
        label = label * (int(other.max()) + 1) + other
    _, count = np.unique(label, return_counts=True)
    return int((count * (count - 1) // 2).sum())


def pairs_of(found, threshold):
    return similar_pairs(found, np.arange(len(found.index)), threshold)


def recall_and_precision(component, source):
    both = pairs_within(component, source)
    return both / pairs_within(source), both / max(pairs_within(component), 1)


@pytest.mark.parametrize("find", [by_mesh, by_faiss])
def test_planted_copies_are_found(find):
    pytest.importorskip("faiss")
    rows, source = planted(1500, 500, 256)
    found = gathered(find(rows, rows, 16))
    for threshold, least, most in ((0.45, 1, 1), (0.6, 1, 1), (0.9, 0.05, 0.5)):
        component = components(pairs_of(found, threshold), len(rows))
        recall, precision = recall_and_precision(component, source)
        assert least <= recall <= most and precision == 1


@pytest.fixture(scope="module")
def many():
    return planted(20_000, 6_000, 512)


@pytest.mark.slow
@pytest.mark.parametrize(
    "index, options, threshold, least, most",
    [
        ("Flat", {}, 0.45, 1, 1),
        ("Flat", {}, 0.6, 1, 1),
        ("Flat", {}, 0.7, 0.75, 0.9),
        ("IVF256,Flat", {"proposals": 1}, 0.6, 0.99, 1),
        ("IVF256,PQ64x4fs", {}, 0.6, 0.99, 1),
    ],
)
def test_recall_and_precision_of_every_index(many, index, options, threshold, least, most):
    pytest.importorskip("faiss")
    rows, source = many
    found = gathered(by_faiss(rows, rows, 64, index=index, **options))
    component = components(pairs_of(found, threshold), len(rows))
    recall, precision = recall_and_precision(component, source)
    print(f"{index} at {threshold}: recall {recall:.4f}, precision {precision:.4f}")
    assert least <= recall <= most and precision > 0.9995


@pytest.mark.slow
def test_quantised_cosines_would_miss_copies(many):
    """Why what an index proposes is compared anew."""
    faiss = pytest.importorskip("faiss")
    rows, source = many
    index = faiss.index_factory(512, "IVF256,PQ64", faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)
    index.nprobe = 16
    component = components(pairs_of(Neighbours(*index.search(rows, 64)), 0.6), len(rows))
    assert recall_and_precision(component, source)[0] < 0.8


def test_pairs_are_above_the_threshold_and_of_two():
    similarity = np.float32([[1, 0.7, 0.6], [0.8, 0.61, -1]])
    index = np.asarray([[5, 4, 2], [9, 6, -1]])
    found = similar_pairs(Neighbours(similarity, index), np.asarray([5, 6]), 0.6)
    assert [found.one.tolist(), found.other.tolist()] == [[5, 6], [4, 9]]
    np.testing.assert_allclose(found.similarity, [0.7, 0.8])


@pytest.mark.parametrize("edges", [0, 40, 200])
def test_components_are_those_of_the_graph(edges):
    rng = np.random.default_rng(edges)
    one, other = rng.integers(0, 100, (2, edges))
    found = components(Pairs(one, other, np.ones(edges)), 100)
    graph = coo_array((np.ones(edges), (one, other)), (100, 100))
    _, label = connected_components(graph, directed=False)
    same = label[:, None] == label
    np.testing.assert_array_equal(found[:, None] == found, same)
    np.testing.assert_array_equal(found, same.argmax(axis=1))


def test_chains_hang_together():
    one = np.random.default_rng(0).permutation(9_999)
    found = components(Pairs(one, one + 1, np.ones(9_999)), 10_000)
    assert (found == 0).all()


def test_the_largest_image_stays_and_of_equal_ones_the_smallest_id():
    component = np.asarray([0, 0, 2, 2, 2, 5])
    resolution = np.asarray([10, 40, 7, 9, 9, 1])
    ids = np.asarray([1, 2, 3, 9, 4, 8])
    kept = representatives(component, resolution, ids)
    assert kept.tolist() == [False, True, False, False, True, True]
    order = np.random.default_rng(0).permutation(6)
    again = representatives(component[order], resolution[order], ids[order])
    assert set(ids[order][again]) == set(ids[kept])


def test_what_hangs_together_with_evaluation_images_goes():
    """Exact copies, variants above the threshold, and a copy of a variant, which is unlike."""
    rng = np.random.default_rng(0)
    pool, reference = unit(rng.normal(size=(2000, 256))), unit(rng.normal(size=(50, 256)))
    variants = near(reference, np.full(50, 0.5), rng)
    further = near(variants[:10], np.full(10, 0.6), rng)
    rows = np.concatenate([pool, reference, variants, further, reference]).astype(np.float32)
    of_reference = np.arange(len(rows)) >= len(rows) - 50
    component = components(pairs_of(gathered(by_mesh(rows, rows, 16)), 0.45), len(rows))
    gone = holding(component, of_reference)
    assert gone[2000:].all() and not gone[:2000].any()
    assert (rows[2100:2110] * rows[-50:-40]).sum(1).max() < 0.45


def test_no_rows():
    none = np.zeros(0, np.int64)
    component = components(Pairs(none, none, np.zeros(0)), 0)
    assert component.shape == (0,)
    assert representatives(component, none, none).shape == (0,)
