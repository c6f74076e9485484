"""Clusters of clusters: how evenly they cover the support of a very uneven cloud."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest
from clouds import brute_labels
from sklearn.neighbors import KernelDensity
from trees import balanced_sample, climb

from dinojax.curation.hierarchy import Level, assign_all, cluster
from dinojax.curation.kmeans import State
from dinojax.curation.parallel_seeding import parallel_seeds
from dinojax.curation.seeding import Seeding, greedy_seeds
from dinojax.mesh import make_mesh

KEY = jax.random.key(0)


def cloud(scale=1.0, seed=0):
    """The simulation of arXiv:2405.15613 on [-3, 3]**2, of `scale` times 9000 points.

    The variance of the second and third Gaussian is not in our notes; 0.5 gives the published
    divergence of the data themselves.
    """
    rng = np.random.default_rng(seed)
    parts = [
        rng.normal((-1, -1), 0.5, (int(7000 * scale), 2)),
        rng.normal((1, -1), 0.5**0.5, (int(1000 * scale), 2)),
        rng.normal((0, 1), 0.5**0.5, (int(500 * scale), 2)),
        rng.uniform(-3, 3, (int(500 * scale), 2)),
    ]
    return np.concatenate(parts).astype(np.float32)


def divergence(points):
    """KL to uniform on the square of a Gaussian kernel density (bandwidth 0.5)."""
    side = np.linspace(-3, 3, 60)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    density = np.exp(KernelDensity(bandwidth=0.5).fit(points).score_samples(grid))
    density /= density.sum()
    return float((density * np.log(density * len(grid))).sum())


@pytest.fixture(scope="module")
def small():
    """A ninth of the cloud, and two levels of it."""
    rows = cloud(0.11)
    return rows, climb(rows, [Level(200), Level(40)], KEY)


def test_every_level_clusters_the_centres_below(small):
    rows, (fine, coarse) = small
    assert fine.centers.shape == (200, 2) and coarse.centers.shape == (40, 2)
    for below, level in ((rows, fine), (fine.centers, coarse)):
        label, squares = brute_labels(below, level.centers)
        assert (level.label == label).mean() > 0.999
        np.testing.assert_allclose(level.distance, squares, atol=1e-5)


def test_levels_and_resampling_flatten(small):
    rows, (_, coarse) = small
    (flat,) = climb(rows, [Level(40)], KEY)
    (resampled,) = climb(rows, [Level(40, rounds=4, kept=6)], KEY)
    raw, one, again, two = map(divergence, (rows, flat.centers, resampled.centers, coarse.centers))
    assert 0.9 < raw < 1.0 and one < 0.5 * raw
    assert two < 0.6 * one and again < 0.6 * one


@pytest.mark.slow
def test_chunks_change_no_bit(small):
    """1 chunk or 3, seeded by k-means|| as larger data are."""
    rows, _ = small
    options = {"key": KEY, "seeds": parallel_seeds}
    levels = [Level(40, rounds=1, kept=20, iterations=3)]
    (once,), (again,) = (climb(rows, levels, chunk=size, **options) for size in (10_000, 400))
    jax.tree.map(np.testing.assert_array_equal, once, again)


@pytest.mark.parametrize("at", [0, 1, 2, 5, 6, 8])
def test_a_stop_changes_no_bit(small, at):
    """After seeds, before and after the first iteration, and of the next round the like."""
    rows, _ = small
    level = Level(40, rounds=1, kept=20, iterations=4)
    options = {"seeds": greedy_seeds, "chunk": 10_000}
    whole = list(cluster(rows, level, KEY, **options))
    rest = list(cluster(rows, level, KEY, start=whole[at], **options))
    assert [one.round for one in whole] == [0] * 6 + [1] * 6
    kinds = [Seeding, *[State] * 5] * 2
    assert [type(one.state) for one in whole] == kinds
    jax.tree.map(np.testing.assert_array_equal, whole[at + 1 :], rest)


@pytest.mark.slow
def test_splits_are_k_means_in_each_cluster():
    """One cluster has two rows, fewer than it would be split into, and one copies of one row."""
    rows = np.concatenate([cloud(0.02), [[9, 9], [9, 8]], np.full((4, 2), -9)]).astype(np.float32)
    level = Level(6, iterations=3, split=4)
    (plain,) = climb(rows, [Level(6, iterations=3)], KEY)
    (found,) = climb(rows, [level], KEY)
    key, before = jax.random.fold_in(jax.random.fold_in(KEY, 0), 1), 0
    for number in range(6):
        own = plain.label == number
        small = Level(min(4, int(own.sum())), iterations=3)
        inside = jax.random.fold_in(key, number)
        *_, last = cluster(rows[own], small, inside, seeds=greedy_seeds, chunk=10_000)
        label, distance = assign_all(rows[own], np.asarray(last.state.centers), 10_000)
        used, label = np.unique(label, return_inverse=True)
        np.testing.assert_array_equal(found.label[own], before + label)
        np.testing.assert_array_equal(found.distance[own], distance)
        here = slice(before, before + len(used))
        np.testing.assert_array_equal(found.centers[here], np.asarray(last.state.centers)[used])
        before += len(used)
    assert len(found.centers) == before < 6 * 4
    assert (np.bincount(found.label, minlength=before) > 0).all()
    assert (found.label[rows[:, 0] == -9] == found.label[-1]).all()
    assert found.distance.sum() < 0.5 * plain.distance.sum()


@pytest.mark.slow
def test_devices_and_chunks_change_no_split():
    rows, level = cloud(0.02), Level(5, iterations=3, split=3)
    options = {"seeds": parallel_seeds}
    (one,) = climb(rows, [level], KEY, **options)
    with jax.set_mesh(make_mesh(4, 1, 2)):
        (other,) = climb(rows, [level], KEY, chunk=100, **options)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_splits_exclude_rounds():
    with pytest.raises(ValueError, match="split=3 and rounds=1 exclude each other; use rounds=0"):
        Level(5, rounds=1, split=3)


@pytest.mark.parametrize("name", ["clusters", "kept", "iterations", "split"])
def test_numbers_outside_their_range(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1; use 1"):
        Level(**({"clusters": 5} | {name: 0}))  # type: ignore[arg-type]


TABLE = {
    "raw": (None, (0.90, 1.00)),
    "1 level": ([Level(300)], (0.30, 0.42)),
    "2 levels": ([Level(1500), Level(300)], (0.10, 0.18)),
    "3 levels": ([Level(3000), Level(1000), Level(300)], (0.06, 0.12)),
    "3 levels, 10 rounds": ([Level(n, 10, 2) for n in (3000, 1000, 300)], (0.03, 0.07)),
}
"""Bands around what was published: 0.942, 0.340, 0.132, 0.081, 0.042."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_the_published_simulation(name):
    levels, (low, high) = TABLE[name]
    rows = cloud()
    points = rows if levels is None else climb(rows, levels, KEY)[-1].centers
    found = divergence(points)
    print(f"{name}: {found:.3f}")
    assert low < found < high


def concepts(width, seed=0):
    """(60,000 rows of 100 Gaussian concepts, which): sizes by Zipf's law with exponent 1.2."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, 101) ** -1.2
    sizes = np.maximum(np.round(60_000 * share / share.sum()), 1).astype(int)
    means = rng.normal(size=(100, width)) * 2
    which = np.repeat(np.arange(100), sizes)
    rows = means[which] + 0.5 * rng.normal(size=(len(which), width))
    return rows.astype(np.float32), which


def random_seeds(chunks, count, key, start) -> Iterator[Seeding]:
    (chunk,) = chunks()
    centers = chunk.rows[jax.random.choice(key, int(chunk.count), (count,), replace=False)]
    yield Seeding(centers, centers[:0, 0], count, centers[:0])


def imbalance(which):
    """KL of the histogram of concepts to uniform."""
    share = np.bincount(which, minlength=100) / len(which)
    share = share[share > 0]
    return float((share * np.log(share * 100)).sum())


def sampled(rows, which, levels, seeds, key=KEY):
    """The concepts of a balanced sample."""
    found = climb(rows, [Level(n, iterations=20) for n in levels], key, seeds=seeds)
    parents = [one.label for one in found]
    times = balanced_sample(parents, np.arange(len(rows)), 6000, seed=0)
    assert times.sum() == 6000
    return which[times > 0]


@pytest.mark.slow
@pytest.mark.parametrize("width", [32, 256])
@pytest.mark.parametrize("seeds", [greedy_seeds, parallel_seeds])
def test_samples_from_two_levels_are_balanced(seeds, width):
    """And seeding is what does it."""
    rows, which = concepts(width)
    assert 1.2 < imbalance(which) < 1.5
    trees = ([1000], seeds), ([1000, 100], seeds), ([1000, 100], random_seeds)
    taken = [sampled(rows, which, *tree) for tree in trees]
    one, two, random = map(imbalance, taken)
    covered = len(np.unique(taken[1]))
    print(f"{width} wide: {one:.3f} {two:.4f}, random seeds {random:.3f}; {covered} concepts")
    assert two < 0.03 and covered == 100
    assert one > 10 * two and random > 10 * two
    assert width > 32 or 0.5 < one < 1  # where that band was measured


@pytest.mark.slow
def test_more_levels_are_more_even():
    """In the mean of five seeds. From two levels on all are even: 0.01 is noise."""
    found = []
    for seed in range(5):
        rows, which = concepts(32, seed)
        trees = [1000], [1000, 100], [2000, 400, 100]
        key = jax.random.key(seed)
        taken = [sampled(rows, which, tree, greedy_seeds, key) for tree in trees]
        found.append([imbalance(one) for one in (which, *taken)])
    raw, one, two, three = np.mean(found, axis=0)
    print(f"raw {raw:.3f}, 1 level {one:.3f}, 2 levels {two:.4f}, 3 levels {three:.4f}")
    assert raw > one > two and three < two + 0.01
