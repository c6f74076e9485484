"""How many directions features use, without labels: two numbers of their spectrum.

* `rankme` falls towards 1 when all features become alike (collapse of the dimensions).
* `alpha_req`: how steeply the variances of the directions fall. Near 1 generalises best; far above,
  a few directions hold everything, and far below, noise fills all of them.

Both are of all rows at once, in float64 on the host: squares of singular values in float32 would
hide the small ones, which decide. There are at most as many directions as rows or columns.
"""

import math

import numpy as np

from dinojax.typing import Float

EPSILON = 1e-7
"""The one of RankMe's Eq. 1."""
ROUNDING = 1e-12
"""Variances below this share of the largest are rounding, not spectrum."""


def rankme(features: Float[np.ndarray, "n D"]) -> float:
    """Effective rank, 1..min(n, D): exp of the entropy of the normalised singular values.

    RankMe, arXiv:2210.02885, Eq. 1, after Roy and Vetterli (2007). Features are not centred there,
    so a direction that all have in common counts with its weight.
    """
    values = np.sqrt(_squares(features))
    shares = values / max(float(values.sum()), np.finfo(float).tiny) + EPSILON
    return math.exp(-float((shares * np.log(shares)).sum()))


def alpha_req(features: Float[np.ndarray, "n D"]) -> float:
    """Exponent a of the power law ``variance of direction j ~ j**-a``; NaN: too few directions.

    alpha-ReQ, arXiv:2202.05808, section 2: a line through (log j, log variance). As in the fit that
    it takes over (Stringer et al., doi:10.1038/s41586-019-1346-5) rank j weighs 1/j, so that each
    octave counts alike, and both ends are left out: the first directions follow no law yet, and
    those near the number of rows or columns are bent down by there being no more. Here from r/32 to
    r/2, r the smaller of both.
    """
    rows, columns = features.shape
    centred = np.asarray(features, np.float64) - features.mean(axis=0, dtype=np.float64)
    variances = _squares(centred)[::-1]
    most = min(rows - 1, columns)
    ranks = np.arange(most // 32 + 1, most // 2 + 1)
    found = variances[ranks - 1]
    kept = found > ROUNDING * max(float(variances[0]), np.finfo(float).tiny)
    if kept.sum() < 3:
        return math.nan
    # polyfit squares its weights.
    slope, _ = np.polyfit(np.log(ranks[kept]), np.log(found[kept]), 1, w=ranks[kept] ** -0.5)
    return -float(slope)


def _squares(features: Float[np.ndarray, "n D"]) -> Float[np.ndarray, " r"]:
    """Squared singular values, ascending; those of the smaller of the two Gram matrices."""
    wide = np.asarray(features, np.float64)
    gram = wide.T @ wide if wide.shape[0] >= wide.shape[1] else wide @ wide.T
    return np.maximum(np.linalg.eigvalsh(gram), 0)
