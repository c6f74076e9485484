"""The head of the published dense protocols: BatchNorm and a 1x1 convolution on frozen patches.

As in the reference, whole channels are dropped first, then normalised by the statistics of the
batch (over all devices), and weights start at N(0, 0.01). Once trained it is one linear map, in
which the running statistics are folded.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dinojax.evaluation.ridge import LinearHead
from dinojax.typing import Array, Bool, Float, Key

EPSILON = 1e-5
MOMENTUM = 0.1
"""PyTorch's BatchNorm."""
INIT_STD = 0.01
EXACT = jax.lax.Precision.HIGHEST


class HeadParams(NamedTuple):
    """What is trained."""

    scale: Float[Array, " D"]
    shift: Float[Array, " D"]
    weights: Float[Array, "D K"]
    bias: Float[Array, " K"]


class Statistics(NamedTuple):
    """Running mean and (unbiased) variance of the channels."""

    mean: Float[Array, " D"]
    variance: Float[Array, " D"]


def init_head(key: Key, width: int, outputs: int) -> tuple[HeadParams, Statistics]:
    weights = INIT_STD * jax.random.normal(key, (width, outputs))
    params = HeadParams(jnp.ones(width), jnp.zeros(width), weights, jnp.zeros(outputs))
    return params, Statistics(jnp.zeros(width), jnp.ones(width))


def apply_training(
    params: HeadParams,
    running: Statistics,
    patches: Float[Array, "b h w D"],
    *,
    valid: Bool[Array, " b"],
    key: Key,
    dropout: float,
) -> tuple[Float[Array, "b h w K"], Statistics]:
    """Outputs of a training step and the running statistics after it.

    Images that are not `valid` are in no statistic. `dropout` is the chance of a channel of an
    image to be zero.
    """
    kept = jax.random.bernoulli(key, 1 - dropout, (len(patches), 1, 1, patches.shape[-1]))
    patches = jnp.where(kept, patches / (1 - dropout), 0)
    here = valid[:, None, None, None]
    count = jnp.maximum(valid.sum() * patches.shape[1] * patches.shape[2], 1)
    mean = jnp.where(here, patches, 0).sum((0, 1, 2)) / count
    variance = jnp.where(here, jnp.square(patches - mean), 0).sum((0, 1, 2)) / count
    unbiased = variance * count / jnp.maximum(count - 1, 1)
    found = Statistics(mean, unbiased)
    running = jax.tree.map(lambda old, new: (1 - MOMENTUM) * old + MOMENTUM * new, running, found)
    head = fold(params, Statistics(mean, variance))
    return apply(head, patches), running


def fold(params: HeadParams, statistics: Statistics) -> LinearHead:
    """Normalisation and convolution as one linear map."""
    gain = params.scale * jax.lax.rsqrt(statistics.variance + EPSILON)
    shift = params.shift - statistics.mean * gain
    bias = params.bias + jnp.matmul(shift, params.weights, precision=EXACT)
    return LinearHead(gain[:, None] * params.weights, bias)


def apply(head: LinearHead, patches: Float[Array, "*b D"]) -> Float[Array, "*b K"]:
    return jnp.matmul(patches, head.weights, precision=EXACT) + head.bias
