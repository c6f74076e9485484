"""Rows to cluster."""

import numpy as np


def blobs(centers=12, rows=900, width=5, spread=0.4, seed=0):
    """(rows, centres): noisy rows around random centres, some around many and some around few."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(centers, width))
    label = np.sort(rng.integers(0, centers, rows) * rng.integers(0, 2, rows))
    noise = spread * rng.normal(size=(rows, width))
    return rng.permutation(means[label] + noise).astype(np.float32), means.astype(np.float32)


def brute_labels(rows, centers):
    """Float64; of equally near centres the first."""
    squares = np.square(rows[:, None].astype(float) - centers.astype(float)).sum(2)
    return squares.argmin(1), squares.min(1)
