"""Linear probes over a grid of learning rates and inputs, all trained at once on the same batches.

DINOv2's evaluation (arXiv:2304.07193, appendix B.3, and its code): SGD with momentum 0.9, no weight
decay, cosine to 0; weights from N(0, 0.01), biases 0. The sum of the probes' losses is minimised:
they share batches and nothing else, so each ends as if it were trained alone. Probes of one input
are stacked, one matrix product for all their learning rates.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dinojax.mesh import split_batch
from dinojax.prng import key_for
from dinojax.typing import Array, Float, Int

INIT_STD = 0.01
MOMENTUM = 0.9
LR_BATCH = 256
"""Learning rates are for batches of this size, and grow with them."""


class ProbeInput(NamedTuple):
    """CLS of the last `layers` layers, and behind them the mean patch of the last if `avgpool`."""

    layers: int
    avgpool: bool

    @property
    def name(self) -> str:
        return f"layers{self.layers}{'_avgpool' if self.avgpool else ''}"


class ProbeBatch(NamedTuple):
    """Features and classes of a batch."""

    cls: Float[Array | np.ndarray, "b L D"]
    mean: Float[Array | np.ndarray, "b d"]
    labels: Int[Array | np.ndarray, " b"]


class Head(NamedTuple):
    """Of one input, stacked over R learning rates."""

    weights: Float[Array, "R F K"]
    bias: Float[Array, "R K"]


Heads = dict[str, Head]
"""By `ProbeInput.name`."""


def probe_inputs(layers: Sequence[int], avgpool: Sequence[bool], stored: int) -> list[ProbeInput]:
    """All combinations, of no more layers than are `stored`."""
    known = sorted({min(count, stored) for count in layers})
    return [ProbeInput(*one) for one in itertools.product(known, sorted(set(avgpool)))]


def join(batch: ProbeBatch, given: ProbeInput) -> Float[Array, "b F"]:
    """The features that probes of this input see."""
    cls = jnp.asarray(batch.cls)[:, -given.layers :]
    parts = [cls.reshape(len(cls), -1)]
    return jnp.concatenate([*parts, jnp.asarray(batch.mean)] if given.avgpool else parts, axis=1)


def train_probes(
    batches: Iterable[ProbeBatch],
    inputs: Sequence[ProbeInput],
    learning_rates: Sequence[float],
    *,
    num_classes: int,
    iterations: int,
    seed: int,
) -> Heads:
    """All probes after one pass over `batches`, of which there are `iterations`.

    A probe depends on its own input, learning rate, seed and the batches alone.
    """
    stream = iter(batches)
    first = next(stream)
    rates = jnp.asarray(learning_rates, jnp.float32) * len(first.labels) / LR_BATCH
    heads = _init(first, inputs, len(learning_rates), num_classes, seed)
    traces = jax.tree.map(jnp.zeros_like, heads)
    step = jax.jit(_step, static_argnames="inputs", donate_argnums=(0, 1))
    for number, batch in enumerate(itertools.chain([first], stream)):
        # One step at a time: each that waits would hold its batch, and on CPUs they can end up
        # waiting for each other's all-reduces.
        jax.block_until_ready(heads)
        decay = 0.5 * (1 + math.cos(math.pi * number / iterations))
        heads, traces = step(heads, traces, batch, rates * decay, inputs=tuple(inputs))
    return heads


def _init(
    batch: ProbeBatch, inputs: Sequence[ProbeInput], rates: int, num_classes: int, seed: int
) -> Heads:
    heads = {}
    for given in inputs:
        width = jax.eval_shape(lambda batch, given=given: join(batch, given), batch).shape[1]
        key = key_for(seed, 0, "linear probe", given.name)
        # The same start for all learning rates: what differs then is the learning rate.
        start = INIT_STD * jax.random.normal(key, (width, num_classes))
        heads[given.name] = Head(
            jnp.repeat(start[None], rates, axis=0), jnp.zeros((rates, num_classes))
        )
    return heads


def _step(
    heads: Heads,
    traces: Heads,
    batch: ProbeBatch,
    rates: Float[Array, " R"],
    inputs: tuple[ProbeInput, ...],
) -> tuple[Heads, Heads]:
    batch = split_batch(jax.tree.map(jnp.asarray, batch))

    def loss(heads: Heads) -> Array:
        total = jnp.zeros(())
        for given in inputs:
            scores = logits(heads[given.name], batch, given)
            labels = jnp.broadcast_to(batch.labels, scores.shape[:2])
            each = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
            total += each.mean(axis=1).sum()
        return total

    traces = jax.tree.map(lambda g, v: g + MOMENTUM * v, jax.grad(loss)(heads), traces)

    def move(head: Array, trace: Array) -> Array:
        return head - rates.reshape(-1, *[1] * (head.ndim - 1)) * trace

    return jax.tree.map(move, heads, traces), traces


def logits(head: Head, batch: ProbeBatch, given: ProbeInput) -> Float[Array, "R b K"]:
    """Of all learning rates."""
    exact = jax.lax.Precision.HIGHEST
    scores = jnp.einsum("bf,rfk->rbk", join(batch, given), head.weights, precision=exact)
    return scores + head.bias[:, None]


@jax.jit(static_argnames=("inputs", "top"))
def rank_by_probes(
    heads: Heads, batch: ProbeBatch, inputs: tuple[ProbeInput, ...], top: int
) -> dict[str, Int[Array, "R b T"]]:
    """The `top` classes of each row by each probe, the most likely first."""
    batch = split_batch(jax.tree.map(jnp.asarray, batch))
    return {
        given.name: jax.lax.top_k(logits(heads[given.name], batch, given), top)[1]
        for given in inputs
    }


def row_order(
    count: int, batch: int, iterations: int, seed: int
) -> Iterator[Int[np.ndarray, " b"]]:
    """Batches of ``pass * count + row``: endless passes over all rows, each shuffled anew."""
    held, number = np.empty(0, np.int64), 0
    for _ in range(iterations):
        while len(held) < batch:
            rng = np.random.default_rng((seed, number))
            held = np.concatenate([held, number * count + rng.permutation(count)])
            number += 1
        yield held[:batch]
        held = held[batch:]
