"""Linear regression on frozen features in closed form, from sums over batches: no step size, no
epochs, no order of the data, and no memory that grows with it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.typing import Array, Float

ROUNDING = 1e-6
"""Of sums in float32, relative to them; below it a variance says nothing."""


class Moments(NamedTuple):
    """Weighted sums over samples, float64 on the host; those of batches add up."""

    weight: float
    x: Float[np.ndarray, " D"]
    y: Float[np.ndarray, " K"]
    xx: Float[np.ndarray, "D D"]
    xy: Float[np.ndarray, "D K"]

    def plus(self, other: "Moments") -> "Moments":
        return jax.tree.map(np.add, self, other)


class LinearHead(NamedTuple):
    """``x @ weights + bias``."""

    weights: Float[np.ndarray | Array, "D K"]
    bias: Float[np.ndarray | Array, " K"]


def moments(x: Float[Array, "n D"], y: Float[Array, "n K"], weight: Float[Array, " n"]) -> Moments:
    """Of one batch of samples `x` and targets `y`; samples of weight 0 do not count."""
    # Not in float64 on the device, where it may not exist: a batch has few samples.
    return Moments(*jax.tree.map(np.float64, jax.device_get(_sums(x, y, weight))))


@jax.jit
def _sums(x: Array, y: Array, weight: Array) -> tuple[Array, ...]:
    exact = jax.lax.Precision.HIGHEST
    # A sample of weight 0 may hold anything, NaN included.
    x = jnp.where(weight[:, None] > 0, x, 0)
    weighted = weight[:, None] * x
    return (
        weight.sum(),
        weighted.sum(0),
        (weight[:, None] * y).sum(0),
        jnp.matmul(weighted.T, x, precision=exact),
        jnp.matmul(weighted.T, y, precision=exact),
    )


def fit_ridge(moments: Moments, ridge: float) -> LinearHead:
    """The head that minimises ``E|x W + b - y|^2 + ridge v |W|^2``, the bias free.

    v is the mean variance of the features, so that `ridge` means the same at every scale of them.

    Raises:
        ValueError: no sample, or a `ridge` that is not positive.
    """
    if not moments.weight > 0:
        raise ValueError("there are no samples to fit; give images with labels")
    if not ridge > 0:
        raise ValueError(f"ridge={ridge} must be positive; use 1e-3")
    mean_x, mean_y = moments.x / moments.weight, moments.y / moments.weight
    covariance = moments.xx / moments.weight - np.outer(mean_x, mean_x)
    cross = moments.xy / moments.weight - np.outer(mean_x, mean_y)
    # Of features that are all alike (a collapsed model) only the rounding of the sums is left.
    rounding = ROUNDING * float(np.trace(moments.xx)) / moments.weight
    variance = max(float(np.trace(covariance)), rounding) / len(mean_x)
    weights = np.linalg.solve(covariance + ridge * variance * np.eye(len(mean_x)), cross)
    return LinearHead(weights, mean_y - mean_x @ weights)
