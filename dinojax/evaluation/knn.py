"""Weighted k-nearest-neighbour classification of frozen features (arXiv:1805.01978, section 3.4).

The protocol of DINO: cosine similarity, votes weighted by ``exp(similarity / temperature)``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.typing import Array, Float, Int

CHUNK = 256
"""Queries at a time: the similarities held are ``[CHUNK, n]``."""


def knn_accuracy(
    bank: Float[Array | np.ndarray, "n D"],
    bank_labels: Int[Array | np.ndarray, " n"],
    queries: Float[Array | np.ndarray, "m D"],
    query_labels: Int[Array | np.ndarray, " m"],
    *,
    k: int,
    temperature: float,
    num_classes: int,
) -> float:
    """Share of the queries, 0..1, whose class gets the most votes from their `k` nearest.

    Exact search in float32. Ties: of equally near neighbours the first in the bank counts, of equal
    votes the lower class wins.

    Raises:
        ValueError: `k` outside the bank, labels outside ``0..num_classes - 1``, no queries, or a
            temperature that is not positive.
    """
    if not len(bank):
        raise ValueError("the bank is empty; give it at least k records")
    if not 1 <= k <= len(bank):
        raise ValueError(f"k={k} must lie in 1..{len(bank)}, the size of the bank; use {len(bank)}")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive; use 0.07")
    if not len(queries):
        raise ValueError("there are no queries; hold out at least 1 record")
    for name, labels in (("bank_labels", bank_labels), ("query_labels", query_labels)):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"{name} hold {low}..{high} and must lie in 0..num_classes - 1 with "
                f"num_classes={num_classes}; leave out records without a label (-1)"
            )
    predicted = knn_predict(
        bank, bank_labels, queries, k=k, temperature=temperature, num_classes=num_classes
    )
    return float((predicted == query_labels).mean())


@functools.partial(jax.jit, static_argnames=("k", "temperature", "num_classes"))
def knn_predict(
    bank: Float[Array | np.ndarray, "n D"],
    bank_labels: Int[Array | np.ndarray, " n"],
    queries: Float[Array | np.ndarray, "m D"],
    *,
    k: int,
    temperature: float,
    num_classes: int,
) -> Int[Array, " m"]:
    """The class of each query; see `knn_accuracy`."""
    bank = _normalise(jnp.asarray(bank))

    def predict(query: Float[Array, " D"]) -> Int[Array, ""]:
        similarity = jnp.matmul(bank, query, precision=jax.lax.Precision.HIGHEST)
        nearest, index = jax.lax.top_k(similarity, k)
        # Relative to the nearest: the same order, and no overflow at low temperatures.
        weights = jnp.exp((nearest - nearest[0]) / temperature)
        return jnp.zeros(num_classes).at[bank_labels[index]].add(weights).argmax()

    return jax.lax.map(predict, _normalise(jnp.asarray(queries)), batch_size=CHUNK)


def _normalise(features: Float[Array, "n D"]) -> Float[Array, "n D"]:
    norm = jnp.linalg.norm(features, axis=1, keepdims=True)
    return features / jnp.maximum(norm, 1e-12)
