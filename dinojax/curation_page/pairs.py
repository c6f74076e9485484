"""Pairs of records whose cosine is nearest to a threshold: what to look at to choose it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from dinojax.evaluation.nearest import Neighbours


class Pair(NamedTuple):
    """Two records by number, and their cosine."""

    one: int
    other: int
    cosine: float


def nearest_pairs(
    found: Neighbours,
    queries: Int[np.ndarray, " m"],
    joined: Int[np.ndarray, " n"],
    threshold: float,
    count: int,
) -> tuple[list[Pair], list[Pair]]:
    """(above, below): of either side of `threshold` at most `count`, the nearest to it first.

    A record is in one pair of each side, so that one crowd does not fill the page. Pairs below that
    are joined nevertheless, through others, are left out.

    Args:
        found: neighbours of the queries; their index is a record's number.
        queries: the queries' numbers.
        joined: of each record, the number of what it is joined to.
    """
    cosine, other = np.asarray(found.similarity), np.asarray(found.index).astype(np.int64)
    one = np.broadcast_to(queries[:, None], other.shape)
    above = (cosine > threshold) & (one != other)
    below = (cosine <= threshold) & (joined[one] != joined[other])
    return _first(one, other, cosine, above, 1, count), _first(one, other, cosine, below, -1, count)


def _first(
    one: Int[np.ndarray, "m k"],
    other: Int[np.ndarray, "m k"],
    cosine: Float[np.ndarray, "m k"],
    wanted: Bool[np.ndarray, "m k"],
    sign: int,
    count: int,
) -> list[Pair]:
    """Those of the smallest cosines (sign 1) or the largest (-1)."""
    one, other, cosine = one[wanted], other[wanted], cosine[wanted]
    pairs: list[Pair] = []
    used: set[int] = set()
    for place in np.lexsort((np.maximum(one, other), np.minimum(one, other), sign * cosine)):
        both = int(one[place]), int(other[place])
        if used.isdisjoint(both):
            used |= set(both)
            pairs.append(Pair(*both, float(cosine[place])))
        if len(pairs) == count:
            break
    return pairs
