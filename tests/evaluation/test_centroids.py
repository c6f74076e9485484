"""Nearest class means against NumPy."""

import numpy as np

from dinojax.evaluation.centroids import rank_by_centroid

RNG = np.random.default_rng(0)


def test_matches_numpy():
    labels = np.array([0, 0, 2, 2, 2, 3])
    shots, queries = RNG.normal(2, 1, (6, 5)), RNG.normal(2, 1, (20, 5))
    middle = shots.mean(0)
    near, far = (
        (x - middle) / np.linalg.norm(x - middle, axis=1, keepdims=True) for x in (shots, queries)
    )
    means = np.stack([near[labels == c].mean(0) for c in (0, 2, 3)])
    distance = ((far[:, None] - means) ** 2).sum(-1)
    expected = np.array([0, 2, 3])[np.argsort(distance, axis=1)]
    given = shots.astype(np.float32), labels, queries.astype(np.float32)
    ranked = np.asarray(rank_by_centroid(*given, num_classes=4, top=4))
    np.testing.assert_array_equal(ranked[:, :3], expected)
    assert (ranked[:, 3] == 1).all()  # a class without shots


def test_scale_and_shift_do_not_matter():
    labels = np.array([0, 1, 0, 1])
    shots, queries = RNG.normal(size=(4, 5)), RNG.normal(size=(9, 5))
    plain, moved = (
        rank_by_centroid(x.astype("f"), labels, y.astype("f"), num_classes=2, top=1)
        for x, y in ((shots, queries), (3 * shots + 7, 3 * queries + 7))
    )
    np.testing.assert_array_equal(plain, moved)
