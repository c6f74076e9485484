"""k-means++ and k-means||: as good as scikit-learn's, the same on any mesh, and never stuck."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clouds import blobs, brute_labels
from sklearn.cluster import KMeans, kmeans_plusplus

from dinojax import mesh
from dinojax.curation import kmeans, seeding
from dinojax.curation.hierarchy import Progress
from dinojax.curation.parallel_seeding import parallel_seeds
from dinojax.curation.parts import place
from dinojax.curation.progress_file import load_progress, save_progress
from dinojax.curation.seeding import greedy_seeds, on_host, plus_plus, reach

each = pytest.mark.parametrize("seeds", [greedy_seeds, parallel_seeds])
ROWS, _ = blobs(centers=30, rows=1000, spread=0.1)


def seeded(seeds, rows, count, key=0, sizes=None, chunks=1):
    using = contextlib.nullcontext() if sizes is None else jax.set_mesh(mesh.make_mesh(*sizes))
    with using:
        every = [place(part) for part in np.array_split(rows, chunks)]
        *_, last = seeds(lambda: every, count, jax.random.key(key))
        return np.asarray(last.centers)


def potential(centers, rows=ROWS):
    return brute_labels(rows, centers)[1].sum()


@each
def test_seeds_are_rows_and_as_good_as_scikit_learns(seeds):
    found = [seeded(seeds, ROWS, 30, key) for key in range(20)]
    assert all((one[:, None] == ROWS).all(2).any(1).all() for one in found)
    theirs = [kmeans_plusplus(ROWS, 30, random_state=key)[0] for key in range(20)]
    ours, others = (np.mean([potential(one) for one in some]) for some in (found, theirs))
    assert ours < 1.05 * others
    at_random = np.random.default_rng(0).permutation(ROWS)[:30]
    assert ours < 0.3 * potential(at_random)
    assert not np.array_equal(found[0], found[1])


@pytest.mark.parametrize(
    "seeds, sizes",
    [
        (greedy_seeds, (4, 2, 1)),
        pytest.param(parallel_seeds, (2, 1, 4), marks=pytest.mark.slow),
    ],
)
def test_devices_change_no_bit(seeds, sizes):
    whole = seeded(seeds, ROWS, 30)
    np.testing.assert_array_equal(seeded(seeds, ROWS, 30, sizes=sizes), whole)


def test_chunks_change_no_bit():
    whole = seeded(parallel_seeds, ROWS, 30)
    np.testing.assert_array_equal(seeded(parallel_seeds, ROWS, 30, chunks=3), whole)
    with pytest.raises(ValueError, match="they come in 3 chunks; use larger"):
        seeded(greedy_seeds, ROWS, 30, chunks=3)


@each
def test_a_stop_changes_no_bit(seeds, monkeypatch, tmp_path):
    """After any step; what is stored has been to disk and back."""
    monkeypatch.setattr(seeding, "PICKS", 8)
    chunks, key = lambda: [place(ROWS)], jax.random.key(0)
    steps = list(seeds(chunks, 30, key))
    picked = [int(step.picked) for step in steps]
    assert picked == [0] * (5 if seeds is parallel_seeds else 0) + [8, 16, 24, 30]
    for at in {0, len(steps) - 3, len(steps) - 1}:
        save_progress(tmp_path / "x.npz", Progress(0, None, steps[at]))
        stored = load_progress(tmp_path / "x.npz")
        assert stored is not None
        rest = list(seeds(chunks, 30, key, stored.state))
        jax.tree.map(np.testing.assert_array_equal, steps[at + 1 :], rest)


def test_a_stop_may_change_the_devices(monkeypatch):
    monkeypatch.setattr(seeding, "PICKS", 8)
    chunks, key = lambda: [place(ROWS)], jax.random.key(0)
    first, *others = greedy_seeds(chunks, 30, key)
    with jax.set_mesh(mesh.make_mesh(4, 2, 1)):
        rest = list(greedy_seeds(chunks, 30, key, first))

    def known(step):
        return step._replace(distance=step.distance[: len(ROWS)])

    for one, other in zip(others, rest, strict=True):
        jax.tree.map(np.testing.assert_array_equal, known(one), known(other))


@each
def test_distances_are_gathered_to_be_stored(seeds, monkeypatch):
    """And not in every step: there is one for each row."""
    gathered, real = [], seeding.to_host
    monkeypatch.setattr(seeding, "PICKS", 8)
    monkeypatch.setattr(seeding, "to_host", lambda tree: gathered.append(0) or real(tree))
    *_, last = seeds(lambda: [place(ROWS)], 30, jax.random.key(0))
    assert not gathered and isinstance(on_host(last).distance, np.ndarray) and gathered


@each
@pytest.mark.parametrize("rows, distinct", [(3, 3), (300, 7), (50, 1)])
def test_too_few_different_rows_are_repeated(seeds, rows, distinct):
    """Fewer rows than centres, copies of a few, copies of one: all of them, and no NaN."""
    some = np.resize(ROWS[:distinct], (rows, 5))
    found = seeded(seeds, some, 30)
    assert {tuple(row) for row in found} == {tuple(row) for row in ROWS[:distinct]}


@each
def test_one_centre_is_any_row(seeds):
    found = {tuple(seeded(seeds, ROWS[:3], 1, key)[0]) for key in range(16)}
    assert found == {tuple(row) for row in ROWS[:3]}


def test_weights_count_as_copies_do():
    """A row of weight 0 is never drawn, the first one as often as weights say."""
    rows = np.float32([[0], [1], [2], [3]])
    weights = jnp.zeros(1024).at[:4].set(jnp.asarray([0.0, 1, 6, 3]))
    chunk, keys = place(rows), jax.random.split(jax.random.key(0), 300)
    drawn = np.asarray([next(plus_plus(chunk, 1, key, weights)).centers[0, 0] for key in keys])
    shares = [(drawn == value).mean() for value in range(4)]
    np.testing.assert_allclose(shares, [0, 0.1, 0.6, 0.3], atol=0.085)


def test_reach():
    steps = jnp.asarray([0.0, 2, 0, 3, 0])
    found = [reach(steps, jnp.asarray(goal)) for goal in (0.0, 1.9, 2.0, 4.5, 5.0)]
    assert [int(at) for at, _ in found] == [1, 1, 3, 3, 3]
    np.testing.assert_allclose([left for _, left in found[:4]], [0, 1.9, 0, 2.5], atol=1e-6)
    assert int(reach(jnp.zeros(5), jnp.asarray(0.0))[0]) == 0


@pytest.mark.slow
@each
def test_potential_of_many_rows_against_scikit_learn(seeds):
    """Within 5 % after seeding, and within 1 % after 25 iterations from there."""
    rng = np.random.default_rng(0)
    means = 0.5 * rng.normal(size=(200, 64))
    rows = means[rng.integers(0, 200, 40_000)] + rng.normal(size=(40_000, 64))
    rows = rows.astype(np.float32)

    def whole(centers):
        return sum(potential(centers, some) for some in np.array_split(rows, 40))

    theirs, _ = kmeans_plusplus(rows, 200, random_state=0)
    ours = seeded(seeds, rows, 200)
    chunk = place(rows)
    start = kmeans.begin(jnp.asarray(ours), kmeans.largest_coordinate(chunk))
    *_, last = kmeans.lloyd(lambda: [chunk], start, 25)
    after = KMeans(200, init=theirs, n_init=1, max_iter=25, tol=0).fit(rows).inertia_
    share = whole(ours) / whole(theirs), whole(np.asarray(last.centers)) / after
    print(f"{seeds.__name__}: {share[0]:.4f} of theirs, after 25 iterations {share[1]:.4f}")
    assert share[0] < 1.05 and share[1] < 1.01
