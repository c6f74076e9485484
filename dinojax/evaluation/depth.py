"""Depth from bins, the loss it is trained with and the errors it is judged by.

The linear protocol of DINOv2 (arXiv:2304.07193, section 7.4) and DINOv3 (arXiv:2508.10104, section
6.1.2), which goes back to AdaBins (arXiv:2011.14141) and Eigen et al. (arXiv:1406.2283). Metres.
"""

from typing import NamedTuple

import jax.numpy as jnp

from dinojax.typing import Array, Bool, Float

FLOOR = 0.1
"""Added to every bin, so that none has a slope of zero for good."""
EPSILON = 1e-3
MEAN_SHARE = 0.15
"""Of the squared mean in the loss; 0 would not see a wrong scale at all."""
DELTA = 1.25


class DepthErrors(NamedTuple):
    """Of one image each, over its pixels of known depth."""

    rmse: Float[Array, "*b"]
    """Metres."""
    abs_rel: Float[Array, "*b"]
    """Mean of ``|predicted - true| / true``."""
    delta1: Float[Array, "*b"]
    """Share with ``max(predicted / true, true / predicted) < 1.25``."""
    delta2: Float[Array, "*b"]
    """...below 1.25^2."""
    delta3: Float[Array, "*b"]
    """...below 1.25^3."""


def bin_depth(outputs: Float[Array, "*b K"], nearest: float, farthest: float) -> Float[Array, "*b"]:
    """The mean of K even bins from `nearest` to `farthest`, weighted by ``relu(output) + 0.1``."""
    weights = jnp.maximum(outputs, 0) + FLOOR
    centres = jnp.linspace(nearest, farthest, outputs.shape[-1])
    return (weights * centres).sum(-1) / weights.sum(-1)


def scale_invariant_loss(
    predicted: Float[Array, "*s"],
    true: Float[Array, "*s"],
    known: Bool[Array, "*s"],
    *,
    variance: Bool[Array, ""] | bool = True,
) -> Float[Array, ""]:
    """``sqrt(Var g + 0.15 mean(g)^2)``, g = log(predicted + 1e-3) - log(true + 1e-3).

    Over all known pixels of the batch, with the unbiased variance, which is left out unless
    `variance`: the reference does so in its first 100 steps.
    """
    count = known.sum()
    gap = jnp.log(jnp.where(known, predicted, 1) + EPSILON) - jnp.log(
        jnp.where(known, true, 1) + EPSILON
    )
    gap = jnp.where(known, gap, 0)
    mean = gap.sum() / jnp.maximum(count, 1)
    squares = jnp.where(known, jnp.square(gap - mean), 0).sum() / jnp.maximum(count - 1, 1)
    square = jnp.where(variance, squares, 0) + MEAN_SHARE * jnp.square(mean)
    # The slope of the root at 0 is infinite, and a perfect prediction needs none.
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def depth_errors(
    predicted: Float[Array, "*b h w"], true: Float[Array, "*b h w"], known: Bool[Array, "*b h w"]
) -> DepthErrors:
    """NaN for an image without a known pixel."""
    pixels = (-2, -1)
    count = known.sum(pixels)
    true = jnp.where(known, true, 1)
    predicted = jnp.where(known, predicted, 1)

    def mean(values: Array) -> Array:
        return jnp.where(known, values, 0).sum(pixels) / count

    off = predicted - true
    ratio = jnp.maximum(predicted / true, true / predicted)
    within = (mean(ratio < DELTA**power) for power in (1, 2, 3))
    return DepthErrors(jnp.sqrt(mean(jnp.square(off))), mean(jnp.abs(off) / true), *within)
