"""Multinomial logistic regression by L-BFGS for a whole grid of C at once.

The objective is scikit-learn's, ``C sum_i CE_i + |W|^2 / 2``, the bias free, divided by ``C n`` as
its solver has it, and so are the stops: a gradient below `tolerance`, or a step that lowers the
objective by no more than rounding. For two classes scikit-learn fits one row of weights, whose
penalty is half of that of the two rows here: its C is half of ours.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange

from dinojax.mesh import current_batch_shards, split_batch
from dinojax.typing import Array, Float, Int

LOGITS = 2**26
"""How many exist at a time."""
ROUNDING = 64
"""A step that gains less than so many units in the last place is the last."""


class LogisticFit(NamedTuple):
    """One head per C."""

    weights: Float[Array, "G D K"]
    bias: Float[Array, "G K"]
    iterations: Int[Array, " G"]


class _Run(NamedTuple):
    """The minimisation for one C."""

    head: tuple[Array, Array]
    state: optax.OptState
    iterations: Array
    done: Array


def fit_logistic(
    features: Float[Array | np.ndarray, "n D"],
    labels: Int[Array | np.ndarray, " n"],
    cs: Float[Array | np.ndarray, " G"],
    *,
    num_classes: int,
    max_iterations: int = 1000,
    tolerance: float = 1e-12,
) -> LogisticFit:
    """Heads for all of `cs`, in the dtype of `features`.

    Under `jax.set_mesh` the rows are shared among the devices.

    Raises:
        ValueError: labels outside ``0..num_classes - 1``, or a C that is not positive.
    """
    if not (np.asarray(cs) > 0).all():
        raise ValueError(f"cs={cs} must be positive; use 1.0")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels hold {low}..{high} and must lie in 0..{num_classes - 1}")
    count, shards = len(features), current_batch_shards()
    rows = max(LOGITS // (len(cs) * num_classes), 1)
    rows = -(-min(rows, count) // shards) * shards
    filling = -count % rows
    x = np.pad(np.asarray(features), ((0, filling), (0, 0)))
    y = np.pad(np.asarray(labels), (0, filling), constant_values=-1)
    parts = rearrange(x, "(c r) D -> c r D", r=rows), rearrange(y, "(c r) -> c r", r=rows)
    limits = {"max_iterations": max_iterations, "tolerance": tolerance}
    return _fit(*parts, jnp.asarray(cs, x.dtype), num_classes=num_classes, count=count, **limits)


@jax.jit(static_argnames=("num_classes", "count", "max_iterations", "tolerance"))
def _fit(
    x: Float[Array | np.ndarray, "c r D"],
    y: Int[Array | np.ndarray, "c r"],
    cs: Float[Array, " G"],
    *,
    num_classes: int,
    count: int,
    max_iterations: int,
    tolerance: float,
) -> LogisticFit:
    x, y = split_batch((jnp.asarray(x), jnp.asarray(y)), axis=1)

    def objective(head: tuple[Array, Array], c: Array) -> Array:
        weights, bias = head

        @jax.checkpoint
        def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
            x, y = part
            logits = jnp.matmul(x, weights, precision=jax.lax.Precision.HIGHEST) + bias
            chosen = jnp.take_along_axis(logits, jnp.maximum(y, 0)[:, None], axis=1)[:, 0]
            losses = jax.nn.logsumexp(logits, axis=1) - chosen
            return total + jnp.where(y < 0, 0, losses).sum(), None

        total, _ = jax.lax.scan(add, jnp.zeros((), x.dtype), (x, y))
        return total / count + jnp.square(weights).sum() / (2 * c * count)

    optimizer = optax.lbfgs()
    rounding = ROUNDING * jnp.finfo(x.dtype).eps

    def minimise(c: Array) -> LogisticFit:
        def value(head: tuple[Array, Array]) -> Array:
            return objective(head, c)

        evaluate: Any = optax.value_and_grad_from_state(value)

        def advance(run: _Run) -> _Run:
            slope: Any
            before, slope = evaluate(run.head, state=run.state)
            updates, state = optimizer.update(
                slope, run.state, run.head, value=before, grad=slope, value_fn=value
            )
            head: Any = optax.apply_updates(run.head, updates)
            after, slope = evaluate(head, state=state)  # known already: of the line search
            scale = jnp.maximum(jnp.maximum(jnp.abs(before), jnp.abs(after)), 1)
            steep = jnp.maximum(*(jnp.abs(one).max() for one in slope))
            done = (before - after <= rounding * scale) | (steep <= tolerance)
            return _Run(head, state, run.iterations + 1, done)

        shape = (x.shape[-1], num_classes)
        head = jnp.zeros(shape, x.dtype), jnp.zeros(num_classes, x.dtype)
        start = _Run(head, optimizer.init(head), jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        end = jax.lax.while_loop(
            lambda run: ~run.done & (run.iterations < max_iterations), advance, start
        )
        return LogisticFit(*end.head, end.iterations)

    return jax.vmap(minimise)(cs)


@jax.jit(static_argnames="top")
def rank_by_logits(
    weights: Float[Array, "G D K"],
    bias: Float[Array, "G K"],
    features: Float[Array | np.ndarray, "m D"],
    top: int,
) -> Int[Array, "G m T"]:
    """The `top` classes of each row by each head, the most likely first."""

    def rank(head: tuple[Array, Array]) -> Int[Array, "m T"]:
        exact = jax.lax.Precision.HIGHEST
        return jax.lax.top_k(jnp.matmul(features, head[0], precision=exact) + head[1], top)[1]

    return jax.lax.map(rank, (weights, bias))


def c_grid(low: float, high: float, count: int) -> list[float]:
    """C from ``10^low`` to ``10^high``, evenly in the exponent."""
    return [math.pow(10.0, e) for e in np.linspace(low, high, count).tolist()]
