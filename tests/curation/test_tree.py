"""The tree on disk: clusters of clusters, and the same bits wherever it was interrupted."""

import itertools

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clouds import blobs

from dinojax.curation.embeddings import Embeddings
from dinojax.curation.hierarchy import Level, Splits, cluster, settled
from dinojax.curation.kmeans import State
from dinojax.curation.progress_file import load_progress, split_files
from dinojax.curation.seeding import Seeding, greedy_seeds
from dinojax.curation.tree import centers_path, grow, read_centers, read_tree, tree_path
from dinojax.mesh import make_mesh

LEVELS = [Level(24, rounds=1, kept=4, iterations=3), Level(4, iterations=3, split=2)]
KEY = jax.random.key(3)


@pytest.fixture(scope="module", autouse=True)
def setting():
    """The mesh of `dinojax.curate`, and small steps that are all on disk."""
    with jax.set_mesh(make_mesh()), pytest.MonkeyPatch.context() as patch:
        patch.setattr("dinojax.curation.seeding.PICKS", 10)
        patch.setattr("dinojax.curation.tree.SAVED_EVERY_S", -1)
        yield


@pytest.fixture(scope="module")
def found() -> Embeddings:
    rows, _ = blobs(rows=200, width=4)
    ids = [f"r{i}" for i in range(len(rows))]
    return Embeddings(ids, rows, np.zeros(len(rows), np.int64))


def labels_of(found: Embeddings) -> np.ndarray:
    return np.arange(len(found.rows), dtype=np.int32) % 3 - 1


def grown(found, folder):
    labels = pa.array(labels_of(found), mask=labels_of(found) < 0)
    records = pa.table({"id": found.ids, "label": labels})
    options = {"seeds": greedy_seeds, "chunk": 2**20}
    return grow(found.rows, lambda: records, LEVELS, KEY, folder, **options)


@pytest.fixture(scope="module")
def whole(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, list(grown(found, folder))


def test_each_level_clusters_the_centres_below(found, whole):
    folder, steps = whole
    assert [step.level for step in steps] == sorted(step.level for step in steps)
    tree, rows = read_tree(folder, 2), found.rows
    assert tree.ids == found.ids
    np.testing.assert_array_equal(tree.labels, labels_of(found))
    for number, level in enumerate(LEVELS, 1):
        own = jax.random.fold_in(KEY, number - 1)
        *_, last = cluster(rows, level, own, seeds=greedy_seeds, chunk=2**20)
        expected = settled(rows, last, 2**20)
        np.testing.assert_array_equal(tree.parents[number - 1], expected.label)
        np.testing.assert_array_equal(read_centers(folder, number), expected.centers)
        if number == 1:
            np.testing.assert_array_equal(tree.distance, expected.distance)
        rows = expected.centers
    table = pq.read_table(tree_path(folder, 1))
    assert table.column_names == ["child", "parent", "squared_distance", "label"]
    assert table["label"].null_count == (labels_of(found) < 0).sum()


def test_interrupted_after_every_step(found, whole, tmp_path):
    """Each call makes one step and is gone; some end with the last of a level not yet written."""
    folder, steps = whole
    seen = []
    for _ in range(len(steps) + 1):
        seen += itertools.islice(grown(found, tmp_path), 1)
    jax.tree.map(np.testing.assert_array_equal, seen, steps)
    kinds = [type(step.progress.state) for step in seen]
    assert kinds.count(Seeding) == 3 + 3 + 1 and kinds.count(Splits) == 4
    for number in (1, 2):
        for path in (tree_path, centers_path):
            assert path(tmp_path, number).read_bytes() == path(folder, number).read_bytes()
    assert not list(tmp_path.glob("progress*")) and not list(folder.glob("progress*"))


def test_splits_are_written_once(found, tmp_path):
    """Each save leaves those before as they are."""
    before: dict = {}
    for number, progress in grown(found, tmp_path):
        files = split_files(tmp_path / f"progress_l{number}.npz")
        if isinstance(progress.state, Splits):
            assert list(files) == list(range(1, len(progress.state.centers) + 1))
            times = {path: path.stat().st_mtime_ns for path in files.values()}
            assert before.items() <= times.items()
            before = times
    assert len(before) == 4


def test_what_is_on_disk_is_the_step(found, tmp_path):
    steps = grown(found, tmp_path)
    for number, progress in steps:
        stored = load_progress(tmp_path / f"progress_l{number}.npz")
        assert stored is not None and type(stored.state) is type(progress.state)
        jax.tree.map(np.testing.assert_array_equal, stored, progress)
        if isinstance(progress.state, State):
            both = stored.state, progress.state
            one, other = ([np.asarray(x).dtype for x in state] for state in both)
            assert one == other
