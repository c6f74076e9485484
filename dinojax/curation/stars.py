"""What hangs together, of more pairs than a machine holds: two kinds of stars by turns.

Kiveris, Lattanzi, Mirrokni, Rastogi and Vassilvitskii, "Connected Components in MapReduce and
Beyond" (SoCC 2014). A round joins to its smallest neighbour first the larger neighbours of each
row (large stars), then the smaller ones (small stars). That never makes more pairs and leaves what
hangs together as it is, until each component is one star around its first row. Before the first
round each shard is brought to stars by itself: with one shard, this is the answer.
"""

import numpy as np
import pyarrow as pa
from absl import logging
from jaxtyping import Bool, Int

from dinojax.curation.duplicates import Pairs, components
from dinojax.curation.runners import Tables

PAIRS = pa.schema([("one", pa.int64()), ("other", pa.int64()), ("moved", pa.int64())])
"""``moved``: whether the last round made this pair."""


def linked(pairs: Tables) -> Tables:
    """(``row``, ``component``) of rows that hang together with an earlier one: the first such row.

    Args:
        pairs: ``one`` and ``other``, numbers of different rows, in any order, as often as you like.
    """
    found, number = pairs.map(own_stars), 0
    while pairs.shards > 1:
        turned = found.map(both_ways).by_key("one", large_stars)
        found = turned.by_key("one", small_stars).held()
        moved = found.map(_moved).all()["moved"].to_numpy().sum()
        number += 1
        logging.info("components: round %d made %d new pairs", number, moved)
        if not moved:
            break
    return found.map(_named)


def own_stars(table: pa.Table) -> pa.Table:
    """Of the pairs of one shard alone: each row and the first that it hangs together with."""
    one, other = (table[name].to_numpy() for name in ("one", "other"))
    rows, place = np.unique(np.concatenate([one, other]), return_inverse=True)
    pairs = Pairs(place[: len(one)], place[len(one) :], np.ones(len(one)))
    first = rows[components(pairs, len(rows))]
    apart = rows != first
    return _pairs(rows[apart], first[apart], np.zeros(apart.sum(), bool))


def both_ways(table: pa.Table) -> pa.Table:
    """Each pair by its one row, and by its other."""
    turned = table.select(["other", "one", "moved"]).rename_columns(PAIRS.names)
    return pa.concat_tables([table.select(PAIRS.names), turned])


def large_stars(table: pa.Table) -> pa.Table:
    """The larger neighbours of each row ``one``, with the smallest of all these and itself."""
    one, other = (table[name].to_numpy() for name in ("one", "other"))
    least = np.minimum(one, least_of_each(one, other))
    larger = other > one
    return _pairs(other[larger], least[larger], (least < one)[larger])


def small_stars(table: pa.Table) -> pa.Table:
    """Each row ``one`` and its neighbours, all smaller, with the smallest of these."""
    one, other, moved = (table[name].to_numpy() for name in PAIRS.names)
    least = least_of_each(one, other)
    apart = other != least
    rows = np.concatenate([one, other[apart]])
    moved = np.concatenate([(moved > 0) | apart, np.ones(apart.sum(), bool)])
    return _pairs(rows, np.concatenate([least, least[apart]]), moved)


def least_of_each(
    group: Int[np.ndarray, " n"], value: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Of each row, the smallest value of its group."""
    groups, place = np.unique(group, return_inverse=True)
    least = np.full(len(groups), np.iinfo(np.int64).max)
    np.minimum.at(least, place, value)
    return least[place]


def _pairs(
    one: Int[np.ndarray, " n"], other: Int[np.ndarray, " n"], moved: Bool[np.ndarray, " n"]
) -> pa.Table:
    """Each pair once."""
    table = pa.table([one, other, moved.astype(np.int64)], schema=PAIRS)
    once = table.group_by(["one", "other"], use_threads=False).aggregate([("moved", "max")])
    return once.rename_columns(PAIRS.names)


def _moved(table: pa.Table) -> pa.Table:
    return pa.table({"moved": [int(table["moved"].to_numpy().sum())]})


def _named(table: pa.Table) -> pa.Table:
    return table.select(["one", "other"]).rename_columns(["row", "component"])
