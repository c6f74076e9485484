"""Random order without a generator: rows are ranked by a hash of (seed, purpose, id).

A rank so drawn depends on a row's id alone, not on files, workers, what else there is, or restarts.
"""

from hashlib import blake2b

import numpy as np
from jaxtyping import Int, Integer, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draw_keys(ids: Integer[np.ndarray, " n"], seed: int, purpose: str) -> UInt64[np.ndarray, " n"]:
    """Uniform 64-bit numbers; different ids have different ones.

    The finaliser of SplitMix64 (Steele, Lea and Flood, 2014), which maps different words to
    different words.
    """
    salt = blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    x = ids.astype(np.uint64) ^ np.uint64(int.from_bytes(salt))
    x = (x + _GOLDEN) * np.uint64(0xD1342543DE82EF95)  # odd, so no word is lost
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def rank_within(group: Int[np.ndarray, " n"], key: np.ndarray) -> Int[np.ndarray, " n"]:
    """Of each row, how many of its group have a smaller key; of equal keys the first is smaller."""
    order = np.lexsort((key, group))
    ordered = group[order]
    new = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])[: len(group)]
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(new, np.diff(np.r_[new, len(group)]))
    return rank


def first_of_each(
    group: Int[np.ndarray, " n"], key: np.ndarray, count: int
) -> Int[np.ndarray, " m"]:
    """Places, ascending, of the `count` rows of each group with the smallest keys."""
    return np.flatnonzero(rank_within(group, key) < count)
