"""How evenly rows are spread over groups, such as classes or clusters."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Evenness(NamedTuple):
    """Of rows in groups."""

    groups: int
    """That have rows."""
    effective: float
    """``exp`` of the entropy: so many groups of one size would be spread alike."""
    divergence: float
    """KL to all groups of one size, in nats; 0 is even."""


def evenness(counts: Int[np.ndarray, " g"], among: int | None = None) -> Evenness:
    """Of rows per group.

    Args:
        among: how many groups there are for `Evenness.divergence`, such as those that had rows
            before some were taken; None: those that have rows.
    """
    share = counts[counts > 0] / max(counts.sum(), 1)
    entropy = float(-(share * np.log(share)).sum())
    spread = float(np.log(max(len(share) if among is None else among, 1)))
    return Evenness(len(share), float(np.exp(entropy)), max(spread - entropy, 0.0))
