"""Retrieval: recall against brute force, multiplicities, and the rule of clusters by hand."""

import numpy as np
import pytest

from dinojax.curation.retrieve import retrieve_clusters, retrieve_nearest
from dinojax.curation.retrieve_stage import RetrieveOptions
from dinojax.curation.search import by_faiss, gathered
from dinojax.evaluation.nearest import Neighbours

RNG = np.random.default_rng(0)


def test_multiplicities_count_every_request():
    index = np.asarray([[5, 2], [2, 9], [2, -1]])
    found = retrieve_nearest(Neighbours(np.ones((3, 2), np.float32), index))
    assert found.rows.tolist() == [2, 5, 9] and found.multiplicity.tolist() == [3, 1, 1]
    assert found.collision_rate == pytest.approx(0.4)


def test_more_neighbours_collide_more():
    pytest.importorskip("faiss")
    pool = RNG.normal(size=(2000, 16)).astype(np.float32)
    found = gathered(by_faiss(pool, RNG.normal(size=(300, 16)).astype(np.float32), 32))
    rates = []
    for k in (1, 4, 32):
        some = retrieve_nearest(Neighbours(found.similarity[:, :k], found.index[:, :k]))
        assert some.multiplicity.sum() == 300 * k
        rates.append(some.collision_rate)
    assert rates[0] < rates[1] < rates[2]


def retrieved(pool, seeds, **options):
    ids = 1000 + np.arange(len(pool))
    return retrieve_clusters(np.asarray(pool), ids, np.asarray(seeds), seed=0, **options)


def test_clusters_need_more_than_three_seeds():
    pool = [0, 1, 2, 1, 3, 2]
    assert retrieved(pool, [1] * 4 + [2] * 3 + [3] * 9).tolist() == [1, 3, 4]
    assert retrieved(pool, [7] * 4).tolist() == []


def test_so_many_of_each_cluster_and_in_all():
    pool = np.repeat([0, 1, 2], [50, 8, 500])
    seeds = np.repeat([0, 1, 2], 4)
    some = retrieved(pool, seeds, per_cluster=20)
    assert np.bincount(pool[some]).tolist() == [20, 8, 20]
    capped = retrieved(pool, seeds, per_cluster=200, cap=129)
    assert len(capped) == 129 and (np.diff(capped) > 0).all()
    # Uniform over the 258: not by cluster, and not those first that came first in theirs.
    assert np.bincount(pool[capped])[[0, 2]] == pytest.approx([25, 100], abs=12)


def test_the_order_of_the_pool_does_not_matter():
    pool, ids = RNG.integers(0, 9, 900), RNG.permutation(900)
    options = {"seed": 3, "per_cluster": 30, "cap": 200}
    seeds = RNG.integers(0, 9, 80)
    once = retrieve_clusters(pool, ids, seeds, **options)
    order = RNG.permutation(900)
    again = retrieve_clusters(pool[order], ids[order], seeds, **options)
    assert set(ids[once]) == set(ids[order][again])
    other = retrieve_clusters(pool, ids, seeds, **(options | {"seed": 4}))
    assert set(ids[once]) != set(ids[other])


def test_the_defaults_make_the_published_table():
    """arXiv:2304.07193, table 15: what is retrieved by rows counts with multiplicity."""
    usual = RetrieveOptions()
    whole = 14_197_086 + 1_434_262 + 1_580_470
    nearest = (14_197_086 + 1_580_470) * usual.neighbours + 1_281_167 * 32
    clusters = (96 + 83) * usual.per_cluster + 19 * usual.cap
    assert whole + nearest + clusters == 142_109_386


@pytest.mark.slow
@pytest.mark.parametrize("k", [4, 32])
def test_recall_of_a_quantised_index(k):
    pytest.importorskip("faiss")
    centers = RNG.normal(size=(300, 64))
    pool = centers[RNG.integers(0, 300, 40_000)] + 0.6 * RNG.normal(size=(40_000, 64))
    seeds = centers[RNG.integers(0, 300, 1000)] + 0.6 * RNG.normal(size=(1000, 64))
    pool, seeds = pool.astype(np.float32), seeds.astype(np.float32)
    exact = gathered(by_faiss(pool, seeds, k))
    found = gathered(by_faiss(pool, seeds, k, index="IVF128,PQ32", probes=16, proposals=8))
    common = [len(set(a) & set(b)) for a, b in zip(exact.index, found.index, strict=True)]
    print(f"recall at {k}: {np.mean(common) / k:.4f}")
    assert np.mean(common) / k >= 0.99
