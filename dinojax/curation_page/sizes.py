"""Charts of how large groups are, for any number of groups."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from dinojax.pictures import bars

BINS = 40
"""Columns at most of a chart of shares."""
CLASSES = 30
"""Classes at most that are named."""


def size_chart(title: str, sizes: Int[np.ndarray, " g"]) -> str:
    """How many groups there are of each size; sizes are joined in powers of two.

    Empty groups are not drawn.
    """
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return ""
    power = np.frexp(sizes.astype(np.float64))[1] - 1
    first, last = int(power.min()), int(power.max())
    edges = [1 << number for number in range(first, last + 2)]
    return bars.histogram(title, edges, np.bincount(power - first).tolist())


def share_chart(
    title: str, before: Int[np.ndarray, " g"], after: Int[np.ndarray, " g"], names: Sequence[str]
) -> str:
    """What share of the records groups have, before and after, the largest before first.

    Few groups that have names are named, with their records; of many each column is the mean of
    several.
    """
    order = np.argsort(-before, kind="stable")
    order = order[before[order] > 0]
    if names and len(order) <= CLASSES:
        labels = [names[place] for place in map(int, order)]
        return bars.rows(title, labels, before[order].tolist(), after[order].tolist())
    series = []
    for counts in (before, after):
        share = 100 * counts[order] / max(counts.sum(), 1)
        parts = np.array_split(share, min(BINS, len(share)))
        series.append([round(float(part.mean()), 6) for part in parts])
    return bars.shares(title, ("largest", "smallest"), *series)
