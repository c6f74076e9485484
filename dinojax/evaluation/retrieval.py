"""Instance retrieval: how early a ranking by cosine shows what it should find."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from dinojax.data.eval_records import Judged
from dinojax.evaluation.nearest import CHUNK
from dinojax.precision import unit_rows
from dinojax.typing import Array, Float

LEVELS = ("easy", "medium", "hard")


@jax.jit
def order(
    bank: Float[Array | np.ndarray, "n D"], queries: Float[Array | np.ndarray, "m D"]
) -> Int[Array, "m n"]:
    """Rows of the bank for each query, the nearest first; of equal ones the first in the bank."""
    bank, queries = (unit_rows(jnp.asarray(x)) for x in (bank, queries))

    def rank(query: Float[Array, " D"]) -> Int[Array, " n"]:
        return jnp.argsort(-jnp.matmul(bank, query, precision=jax.lax.Precision.HIGHEST))

    return jax.lax.map(rank, queries, batch_size=CHUNK)


@jax.jit
def class_precision(
    bank: Float[Array | np.ndarray, "n D"],
    bank_labels: Int[Array | np.ndarray, " n"],
    queries: Float[Array | np.ndarray, "m D"],
    labels: Int[Array | np.ndarray, " m"],
) -> tuple[Float[Array, " m"], Int[Array, " m"]]:
    """(average precision, rank of the first hit from 0) where a query asks for its own class.

    Average precision is the mean over hits of the share of hits so far. A query whose class is not
    in the bank has 0 and the rank n.
    """
    bank = unit_rows(jnp.asarray(bank))

    def of_query(given: tuple[Array, Array]) -> tuple[Array, Array]:
        query, label = given
        ranks = jnp.argsort(-jnp.matmul(bank, query, precision=jax.lax.Precision.HIGHEST))
        hit = jnp.asarray(bank_labels)[ranks] == label
        share = jnp.cumsum(hit) / jnp.arange(1, len(hit) + 1)
        found = hit.sum()
        precision = (hit * share).sum() / jnp.maximum(found, 1)
        return precision, jnp.where(found > 0, hit.argmax(), len(hit))

    units = unit_rows(jnp.asarray(queries))
    return jax.lax.map(of_query, (units, jnp.asarray(labels)), batch_size=CHUNK)


def revisited_scores(
    ranking: Int[np.ndarray, "m n"], judged: Sequence[Judged], at: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """mAP and mean precision of the first k, by level, as the revisited benchmarks count them.

    Easy asks for the easy images and passes over the hard ones, hard the other way round, medium
    asks for both (arXiv:1803.11285, section 3.3). Junk is passed over. Queries that have nothing to
    find at a level are not in its mean.

    Raises:
        ValueError: no query has anything to find at a level.
    """
    found = {}
    for level in LEVELS:
        rows = []
        for ranks, one in zip(ranking, judged, strict=True):
            wanted, passed = _asked(one, level)
            if len(wanted):
                rows.append(_query_scores(ranks, wanted, passed, at))
        if not rows:
            raise ValueError(f"no query has a {level} image to find; give the whole benchmark")
        names = ["map", *(f"mp{k}" for k in at)]
        found |= {f"{n}_{level}": float(v) for n, v in zip(names, np.mean(rows, 0), strict=True)}
    return found


def _asked(one: Judged, level: str) -> tuple[np.ndarray, np.ndarray]:
    """(what is to be found, what is passed over)."""
    if level == "easy":
        return one.easy, np.concatenate([one.junk, one.hard])
    if level == "hard":
        return one.hard, np.concatenate([one.junk, one.easy])
    return np.concatenate([one.easy, one.hard]), one.junk


def _query_scores(
    ranks: Int[np.ndarray, " n"], wanted: np.ndarray, passed: np.ndarray, at: Sequence[int]
) -> list[float]:
    """Average precision by trapezoids, and precisions among the first k.

    Of fewer images than k up to the last hit, the precision is among those: the benchmark's way.
    """
    kept = ranks[~np.isin(ranks, passed)]
    places = np.flatnonzero(np.isin(kept, wanted))  # of hits, from 0
    before = np.arange(len(places))
    left = np.where(places > 0, before / np.maximum(places, 1), 1)
    right = (before + 1) / (places + 1)
    precision = float((left + right).sum() / 2 / len(wanted))
    within = [min(int(places.max(initial=-1)) + 1, k) or 1 for k in at]
    return [precision, *(float((places < k).sum() / k) for k in within)]
