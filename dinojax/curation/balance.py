"""Balanced sampling from a tree of clusters (arXiv:2405.15613): siblings get equally much.

A node's quota is divided among its children: each gets the same cut, or all it has if that is less.
What small ones cannot use goes to their siblings, never to cousins. So small concepts are taken
whole. Numbers are exact: as many rows are chosen as are wanted, or all there are.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Integer

from dinojax.curation.draws import draw_keys, rank_within


def quotas(
    flat: Sequence[Int[np.ndarray, "_"]],
    parents: Sequence[Integer[np.ndarray, "_"]],
    target: int,
    *,
    seed: int,
    multiplicity: int,
) -> Int[np.ndarray, " k"]:
    """How many rows, copies included, each cluster of the finest level gives.

    Args:
        flat: of each level, how many rows lie below each cluster.
        parents: of each level but the highest, the cluster above that each belongs to.
        target: rows wanted, copies included; all, where there are fewer.
        seed: of which siblings get one more than others.
        multiplicity: copies that may be taken of a row.
    """
    quota = np.asarray([target], np.int64)
    for level in reversed(range(len(flat))):
        # The highest clusters are children of one root.
        top = level + 1 == len(flat)
        parent = np.zeros(len(flat[level]), np.int64) if top else parents[level]
        key = draw_keys(np.arange(len(parent)), seed, f"remainder {level}")
        quota = divide(multiplicity * flat[level], parent, quota, key)
    return quota


def taken(
    label: Integer[np.ndarray, " m"],
    ids: Integer[np.ndarray, " m"],
    size: Int[np.ndarray, " k"],
    quota: Int[np.ndarray, " k"],
    *,
    seed: int,
    distance: Float[np.ndarray, " m"] | None,
) -> Int[np.ndarray, " m"]:
    """How often each row is taken: of rows that are whole clusters, and of these alone.

    Args:
        label: of each row, its cluster.
        size: of each cluster, its rows.
        quota: of each cluster, rows that it gives, copies included.
        ids: of the rows, all different; where rows stand does not matter.
        seed: of which rows.
        distance: to the clusters' centres, and the nearest are taken; None: random ones.
    """
    copies, more = np.divmod(quota, np.maximum(size, 1))
    order = draw_keys(ids, seed, "rows")
    if distance is not None:
        order = np.argsort(np.lexsort((order, distance)))
    return copies[label] + (rank_within(label, order) < more[label])


def flat_sizes(parents: Sequence[Integer[np.ndarray, "_"]]) -> list[Int[np.ndarray, "_"]]:
    """Of each level from the finest on, how many rows lie below each cluster."""
    # Clusters that nothing was assigned to have an entry in the next level's parents, too.
    least = len(parents[1]) if len(parents) > 1 else 0
    return sums_above(np.bincount(parents[0], minlength=least), parents[1:])


def sums_above(
    finest: Int[np.ndarray, " k"], parents: Sequence[Integer[np.ndarray, "_"]]
) -> list[Int[np.ndarray, "_"]]:
    """A number of each cluster of the finest level, and its sums over each level above."""
    sums = [finest]
    for level, parent in enumerate(parents):
        count = len(parents[level + 1]) if level + 1 < len(parents) else int(parent.max()) + 1
        found = np.zeros(count, np.int64)
        np.add.at(found, parent, sums[-1])
        sums.append(found)
    return sums


def divide(
    capacity: Int[np.ndarray, " n"],
    parent: Integer[np.ndarray, " n"],
    quota: Int[np.ndarray, " p"],
    key: np.ndarray,
) -> Int[np.ndarray, " n"]:
    """What each child gets of its parent's quota; of equal children, those of the smallest `key`
    get one more."""
    cut = cuts(capacity, parent, quota)[parent]
    share = np.minimum(capacity, cut)
    given = np.zeros_like(quota)
    np.add.at(given, parent, share)
    # Less than one for each of those that could take more.
    left = np.where(capacity > cut, (quota - given)[parent], 0)
    waiting = np.flatnonzero(left > 0)
    rank = rank_within(parent[waiting], key[waiting])
    share[waiting] += rank < left[waiting]
    return share


def cuts(
    capacity: Int[np.ndarray, " n"], parent: Integer[np.ndarray, " n"], quota: Int[np.ndarray, " p"]
) -> Int[np.ndarray, " p"]:
    """Of each parent, the largest number that does not exceed its quota if every child gets it, or
    its capacity if that is less; where all capacities fit the quota, the largest of them.

    With the n capacities ascending and the k smallest used up, the others would get
    ``(quota - sum of those) // (n - k)``. That is the answer for the only k where this is at least
    the last capacity used up, and less than the next one.
    """
    order = np.lexsort((capacity, parent))
    s, p = capacity[order], parent[order]
    count = np.bincount(p, minlength=len(quota))
    first = np.cumsum(count) - count
    ends = np.cumsum(s)
    start = ends - s
    used = start - start[first[p]]
    before = np.arange(len(s)) - first[p]
    level = (quota[p] - used) // (count[p] - before)
    previous = np.where(before > 0, np.r_[0, s[:-1]], 0)
    fits = (previous <= level) & (level < s)
    found = np.zeros_like(quota)
    np.maximum.at(found, p, s)  # all of it, unless
    found[p[fits]] = level[fits]
    return found
