"""Weighted k-nearest-neighbour classification of frozen features (arXiv:1805.01978, section 3.4).

The protocol of DINO: cosine similarity, votes weighted by ``exp(similarity / temperature)``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.evaluation.nearest import CHUNK, nearest
from dinojax.typing import Array, Float, Int


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
    found = nearest(bank, queries, k)
    labels = jnp.asarray(bank_labels)[found.index]
    options = {"temperature": temperature, "num_classes": num_classes}
    return rank_classes(found.similarity, labels, ks=(k,), top=1, **options)[:, 0, 0]


@functools.partial(jax.jit, static_argnames=("ks", "temperature", "num_classes", "top"))
def rank_classes(
    similarity: Float[Array, "m k"],
    labels: Int[Array, "m k"],
    *,
    ks: tuple[int, ...],
    temperature: float,
    num_classes: int,
    top: int,
) -> Int[Array, "m J T"]:
    """The `top` classes with the most votes from the first ``ks[j]`` neighbours, for each j."""
    # Relative to the nearest: the same order, and no overflow at low temperatures.
    weights = jnp.exp((similarity - similarity[:, :1]) / temperature)
    rank = jnp.arange(similarity.shape[1])

    def of_query(given: tuple[Array, Array]) -> Int[Array, "J T"]:
        weights, labels = given
        votes = [jnp.zeros(num_classes).at[labels].add(jnp.where(rank < k, weights, 0)) for k in ks]
        return jax.lax.top_k(jnp.stack(votes), top)[1]

    return jax.lax.map(of_query, (weights, labels), batch_size=CHUNK)
