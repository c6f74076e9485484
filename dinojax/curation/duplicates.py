"""Near-duplicates: who is whose copy, and which one stays (arXiv:2304.07193, appendix A).

Rows of a copy detector that are more similar than a threshold are joined, and what hangs together
is one image. Of a pool each such component keeps one image (threshold 0.6 there); against images of
evaluation sets a component that holds one of those loses all of the pool (threshold 0.45). Joining
is transitive: copies of copies may be unlike, and one threshold too low makes a component of half
the pool (`ALARM_SHARE`).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ALARM_SHARE = 1e-3
"""A component of a larger share of the pool than this has more in it than copies."""


class Pairs(NamedTuple):
    """Rows that are joined; the same pair may be there twice."""

    one: Int[np.ndarray, " e"]
    other: Int[np.ndarray, " e"]
    similarity: Float[np.ndarray, " e"]


def components(pairs: Pairs, rows: int) -> Int[np.ndarray, " n"]:
    """Of each of `rows` rows, the first row that it hangs together with: itself, if with none."""
    graph = coo_array((np.ones(len(pairs.one), bool), (pairs.one, pairs.other)), (rows, rows))
    _, label = connected_components(graph, directed=False)
    first = np.full(label.max(initial=-1) + 1, rows)
    np.minimum.at(first, label, np.arange(rows))
    return first[label].astype(np.int64)


def representatives(
    component: Int[np.ndarray, " n"],
    resolution: Integer[np.ndarray, " n"],
    ids: Integer[np.ndarray, " n"],
) -> Bool[np.ndarray, " n"]:
    """Which rows stay: of each component the one of most pixels; of those the smallest id."""
    order = np.lexsort((ids, -resolution.astype(np.int64), component))
    ordered = component[order]
    kept = np.zeros(len(component), bool)
    kept[order[np.r_[True, ordered[1:] != ordered[:-1]][: len(order)]]] = True
    return kept


def holding(
    component: Int[np.ndarray, " n"], references: Bool[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Which rows hang together with one of the `references`, these included."""
    touched = np.zeros(len(component), bool)
    touched[component[references]] = True
    return touched[component]
