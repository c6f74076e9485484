"""Retrieval of a pool's images from curated seeds (arXiv:2304.07193, section 3 and appendix A).

Large seed sets ask for the nearest images of each seed, small ones for images of the clusters that
they fall into. A pool image may be asked for by several seeds; the published counts include it each
time, so multiplicities are kept and whoever samples decides.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from dinojax.curation.draws import draw_keys, first_of_each
from dinojax.curation.search import MISSING
from dinojax.evaluation.nearest import Neighbours


class Retrieved(NamedTuple):
    """Rows of the pool, ascending, and how many seeds asked for each."""

    rows: Int[np.ndarray, " r"]
    multiplicity: Int[np.ndarray, " r"]

    @property
    def collision_rate(self) -> float:
        """The share of requests, 0..1, for what another seed had asked for before; grows with k."""
        return float(1 - len(self.rows) / max(self.multiplicity.sum(), 1))


def retrieve_nearest(neighbours: Neighbours) -> Retrieved:
    """The pool's `neighbours` of all seeds: 4 of each for sets of more than a million, 32 for
    ImageNet-1k."""
    index = np.asarray(neighbours.index).reshape(-1)
    rows, multiplicity = np.unique(index[index != MISSING], return_counts=True)
    return Retrieved(rows.astype(np.int64), multiplicity.astype(np.int64))


def retrieve_clusters(
    pool_labels: Integer[np.ndarray, " n"],
    pool_ids: Integer[np.ndarray, " n"],
    seed_labels: Integer[np.ndarray, " m"],
    *,
    seed: int,
    least_seeds: int = 4,
    per_cluster: int = 10_000,
    cap: int = 1_000_000,
) -> Int[np.ndarray, " r"]:
    """Rows of the pool, ascending, from the clusters that many seeds fall into.

    Args:
        pool_labels: the nearest centre of each row of the pool.
        pool_ids: of the pool's rows, all different; which rows are taken depends on them alone.
        seed_labels: the nearest of the same centres, of each seed.
        seed: of which rows of a cluster are taken, and which are left out under the cap.
        least_seeds: that a cluster must hold to be asked; the paper's "more than 3".
        per_cluster: rows taken of each.
        cap: rows in all.
    """
    clusters = 1 + max(pool_labels.max(initial=-1), seed_labels.max(initial=-1))
    hit = np.bincount(seed_labels, minlength=clusters) >= least_seeds
    rows = np.flatnonzero(hit[pool_labels])
    keys = draw_keys(pool_ids[rows], seed, "cluster")
    rows = rows[first_of_each(pool_labels[rows], keys, per_cluster)]
    # Another draw: what comes first in its cluster must not come first again.
    keys = draw_keys(pool_ids[rows], seed, "cap")
    return rows[first_of_each(np.zeros(len(rows), np.int64), keys, cap)]
