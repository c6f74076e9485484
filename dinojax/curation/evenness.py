"""How evenly rows are spread over groups, such as classes or clusters."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Evenness(NamedTuple):
    """Of the groups that have rows."""

    groups: int
    effective: float
    """``exp`` of the entropy: so many groups of one size would be spread alike."""
    divergence: float
    """KL to all groups of one size, in nats; 0 is even."""


def evenness(counts: Int[np.ndarray, " g"]) -> Evenness:
    """Of rows per group; groups without rows do not count."""
    share = counts[counts > 0] / max(counts.sum(), 1)
    entropy = float(-(share * np.log(share)).sum())
    spread = float(np.log(max(len(share), 1)))
    return Evenness(len(share), float(np.exp(entropy)), max(spread - entropy, 0.0))
