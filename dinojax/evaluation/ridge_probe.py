"""A linear classifier of frozen features in closed form: quick enough to watch a run with.

Least squares on one-hot classes (`dinojax.evaluation.ridge`) has no step size, no epochs and no
seed, so that two values of one run differ by their features alone. It stands for the trained linear
probe of the published protocols without being one: the numbers are lower and keep their order.
"""

import math

import jax.numpy as jnp
import numpy as np

from dinojax.evaluation.ridge import Moments, fit_ridge, moments
from dinojax.typing import Float, Int

ROWS = 1024
"""Of the bank at a time."""


def ridge_accuracy(
    bank: Float[np.ndarray, "n D"],
    bank_labels: Int[np.ndarray, " n"],
    queries: Float[np.ndarray, "m D"],
    query_labels: Int[np.ndarray, " m"],
    *,
    num_classes: int,
    ridge: float,
) -> float:
    """Share of the queries, 0..1, whose class has the largest output; fitted on the bank.

    Raises:
        ValueError: an empty bank, or a `ridge` that is not positive.
    """
    total: Moments | None = None
    for first in range(0, len(bank), ROWS):
        x, labels = bank[first : first + ROWS], bank_labels[first : first + ROWS]
        filled = np.pad(x, ((0, ROWS - len(x)), (0, 0)))  # one shape, one compilation
        classes = np.pad(np.eye(num_classes, dtype=x.dtype)[labels], ((0, ROWS - len(x)), (0, 0)))
        found = moments(*map(jnp.asarray, (filled, classes, np.float32(np.arange(ROWS) < len(x)))))
        total = found if total is None else total.plus(found)
    if total is None:
        raise ValueError("the bank is empty; give labelled records to fit on")
    if not len(queries):
        return math.nan
    head = fit_ridge(total, ridge)
    predicted = (queries @ head.weights + head.bias).argmax(axis=1)
    return float((predicted == query_labels).mean())
