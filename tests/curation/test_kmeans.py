"""Lloyd's iterations: scikit-learn's centres, and the same bits however the work is divided."""

import contextlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clouds import blobs, brute_labels
from sklearn.cluster import KMeans

from dinojax import mesh
from dinojax.curation import kmeans
from dinojax.curation.assign import assign
from dinojax.curation.parts import place

ROWS, MEANS = blobs(centers=14, rows=1000)
FIRST = ROWS[:14]


def states(rows=ROWS, centers=FIRST, iterations=6, chunks=1, sizes=None, **options):
    """All of a run."""
    using = contextlib.nullcontext() if sizes is None else jax.set_mesh(mesh.make_mesh(*sizes))
    with using:
        every = [place(part) for part in np.array_split(rows, chunks)]
        largest = jnp.stack([kmeans.largest_coordinate(one) for one in every]).max()
        start = kmeans.begin(jnp.asarray(centers), largest)
        run = kmeans.lloyd(lambda: every, start, iterations, **options)
        return [jax.tree.map(np.asarray, state) for state in run]


@pytest.fixture(scope="module")
def whole():
    return states()


def inertia(rows, centers):
    return brute_labels(rows, centers)[1].sum()


def test_an_iteration_by_hand():
    (state,) = states(iterations=1)
    label, squares = brute_labels(ROWS, FIRST)
    means = np.stack([ROWS[label == k].astype(float).mean(axis=0) for k in range(14)])
    np.testing.assert_allclose(state.centers, means, atol=1e-6)
    assert state.inertia == pytest.approx(squares.sum(), rel=1e-6)
    assert state.iteration == 1 and state.gain == np.inf


def test_it_ends_where_scikit_learn_does():
    *_, ours = states(iterations=100)
    theirs = KMeans(14, init=FIRST, n_init=1, max_iter=100, tol=0).fit(ROWS)
    assert inertia(ROWS, ours.centers) == pytest.approx(theirs.inertia_, rel=1e-3)
    assert (brute_labels(ROWS, ours.centers)[0] == theirs.labels_).mean() > 0.99
    assert ours.gain == 0 and ours.iteration < 100  # a fixed point


def test_inertia_never_rises(whole):
    inertias = [float(state.inertia) for state in whole] + [inertia(ROWS, whole[-1].centers)]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(inertias))
    assert inertias[-1] < 0.8 * inertias[0]


@pytest.mark.parametrize("chunks, sizes", [(3, None), (2, (2, 1, 4))])
def test_the_division_of_work_changes_no_bit(whole, chunks, sizes):
    """1000 rows in 3 chunks, and in 2 on 8 devices, of which 4 share the 14 centres."""
    found = states(chunks=chunks, sizes=sizes)
    jax.tree.map(np.testing.assert_array_equal, whole, found)


@pytest.mark.parametrize("at", [1, 4])
def test_a_stop_changes_no_bit(whole, at):
    """The state is all there is: here it has been to disk and back."""
    chunk = place(ROWS)
    stored = kmeans.State(*map(jnp.asarray, whole[at - 1]))
    rest = list(kmeans.lloyd(lambda: [chunk], stored, 6))
    jax.tree.map(np.testing.assert_array_equal, whole[at:], rest)


def test_a_tolerance_ends_early_and_once(whole):
    gains = [float(state.gain) for state in whole]
    assert gains[1] == pytest.approx(1 - whole[1].inertia / whole[0].inertia, rel=1e-3)
    tolerance = gains[2] * 1.01
    found = states(tolerance=tolerance)
    assert len(found) == (2 if gains[1] <= tolerance else 3)
    chunk, last = place(ROWS), kmeans.State(*map(jnp.asarray, found[-1]))
    assert not list(kmeans.lloyd(lambda: [chunk], last, 6, tolerance=tolerance))


def test_a_centre_without_rows_stays():
    centers = np.concatenate([FIRST[:13], np.full((1, 5), 50, np.float32)])
    *_, state = states(centers=centers, iterations=3)
    np.testing.assert_array_equal(state.centers[13], centers[13])
    assert np.isfinite(state.centers).all()


def test_reseeded_centres_are_the_farthest_rows():
    """Three centres have no rows after one iteration, two of them copies."""
    centers = np.concatenate([FIRST[:11], FIRST[:2], np.full((1, 5), 50, np.float32)])
    (plain,), (state,) = states(centers=centers, iterations=1), lost(centers, iterations=1)
    np.testing.assert_array_equal(state.centers[:11], plain.centers[:11])
    distance = np.asarray(assign(place(ROWS), jnp.asarray(plain.centers)).distance)[:1000]
    farthest = np.argsort(-distance, kind="stable")[:3]
    np.testing.assert_array_equal(state.centers[11:], ROWS[farthest])
    assert state.gain == np.inf and state.inertia == plain.inertia


def test_reseeding_leaves_none_empty_and_lowers_inertia():
    centers = np.concatenate([FIRST[:4], np.full((10, 5), 50, np.float32)])
    *_, plain = states(centers=centers, iterations=30)
    *_, state = lost(centers, iterations=30)
    used = [len(set(brute_labels(ROWS, one.centers)[0])) for one in (plain, state)]
    assert used == [4, 14]
    assert inertia(ROWS, state.centers) < 0.8 * inertia(ROWS, plain.centers)


def test_reseeding_by_parts_changes_no_bit():
    centers = np.concatenate([FIRST[:11], np.full((3, 5), 50, np.float32)])
    whole = lost(centers, iterations=3)
    found = lost(centers, iterations=3, chunks=2, sizes=(2, 1, 4))
    jax.tree.map(np.testing.assert_array_equal, whole, found)


def test_rows_on_their_centres_attract_none():
    rows = np.ones((40, 5), np.float32)
    (state,) = lost(rows[:14], rows=rows, iterations=5)
    assert state.gain == 0 and (state.centers == 1).all()


def lost(centers, **options):
    return states(centers=centers, reseed_empty=True, **options)


def test_equal_rows_have_one_cluster():
    rows = np.ones((40, 5), np.float32)
    *_, state = states(rows=rows, centers=rows[:14])
    assert state.inertia == 0 and (state.centers == 1).all()
    assert (np.asarray(assign(place(rows), jnp.asarray(state.centers)).label)[:40] == 0).all()


def test_more_rows_than_an_int32_could_sum():
    """70,000 times nearly 2**15, which is 2**31.1, in one cluster."""
    rows = np.full((70_000, 1), 0.99, np.float32)
    (state, *_) = states(rows=rows, centers=np.zeros((1, 1), np.float32), iterations=1)
    assert state.centers[0, 0] == pytest.approx(0.99, rel=1e-7)
    assert state.inertia == pytest.approx(70_000 * 0.99**2, rel=1e-6)


def test_filling_never_counts():
    """1023 zeros are added to a single row, and a centre lies at zero."""
    centers = np.repeat(np.float32([0, 1, 9]), [1, 1, 12])[:, None] * np.ones(5, np.float32)
    (state, *_) = states(rows=np.full((1, 5), 2, np.float32), centers=centers)
    np.testing.assert_array_equal(state.centers[:2], [[0] * 5, [2] * 5])
    assert state.inertia == 5


@pytest.fixture(scope="module")
def many():
    """40,000 rows around 200 directions, and where k-means begins."""
    rng = np.random.default_rng(0)
    means = 0.5 * rng.normal(size=(200, 64))
    rows = means[rng.integers(0, 200, 40_000)] + rng.normal(size=(40_000, 64))
    return rows.astype(np.float32), rows[:200].astype(np.float32)


@pytest.mark.slow
def test_parity_with_scikit_learn(many):
    rows, first = many
    *_, ours = states(rows, first, 25)
    theirs = KMeans(200, init=first, n_init=1, max_iter=25, tol=0, algorithm="lloyd").fit(rows)
    label, distance = assign(place(rows), jnp.asarray(ours.centers))
    label, distance = np.asarray(label)[: len(rows)], np.asarray(distance)[: len(rows)]
    assert float(distance.sum()) == pytest.approx(theirs.inertia_, rel=1e-3)
    assert (label == theirs.labels_).mean() > 0.99


@pytest.mark.slow
def test_parity_with_faiss(many):
    faiss = pytest.importorskip("faiss")
    rows, first = many
    theirs = faiss.Kmeans(64, 200, niter=25, max_points_per_centroid=len(rows))
    theirs.train(rows, init_centroids=first)
    *_, ours = states(rows, first, 25)
    for centers in (ours.centers, theirs.centroids):
        index = faiss.IndexFlatL2(64)
        index.add(centers)
        squares, _ = index.search(rows, 1)
        assert squares.sum() == pytest.approx(float(ours.inertia), rel=1e-3)
