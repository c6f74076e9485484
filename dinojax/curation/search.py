"""Nearest rows of a bank by cosine: exactly on the mesh, or by an index of FAISS on one machine.

Every search has the form ``(bank, queries, k)`` and yields the neighbours of one part of the
queries after the other, for `gathered`. Cosines are exact: those of quantised rows must never meet
a threshold, which would then miss duplicates that an exact search finds. So an approximate index
only proposes rows, which are compared anew.
"""

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dinojax.evaluation.nearest import EPSILON, Neighbours, nearest

Rows = Float[np.ndarray, "n D"]
Search = Callable[[np.ndarray, np.ndarray, int], Iterator[Neighbours]]

PART = 2**14
"""Rows that are normed, added to an index or searched for at a time."""
COMPARED = 64
"""Queries whose proposals are compared at a time."""
TRAINING_ROWS = 64
"""For each of its lists, so many rows of the bank are what an index learns from."""
MISSING = -1
"""The index of a neighbour that was not found; its cosine is -1."""


def search_by(index: str | None, seed: int) -> Search:
    """`by_faiss` with this index; None: `by_mesh`.

    Raises:
        ValueError: FAISS is wanted and not installed.
    """
    if index is None:
        return by_mesh
    _import_faiss()
    return functools.partial(by_faiss, index=index, seed=seed)


def by_mesh(
    bank: Float[np.ndarray, "n D"], queries: Float[np.ndarray, "m D"], k: int
) -> Iterator[Neighbours]:
    """The exact `nearest`; the bank lies over the devices in use."""
    for part in _parts(queries):
        yield Neighbours(*map(np.asarray, nearest(bank, part, min(k, len(bank)))))


def by_faiss(
    bank: Float[np.ndarray, "n D"],
    queries: Float[np.ndarray, "m D"],
    k: int,
    *,
    index: str = "Flat",
    probes: int = 16,
    proposals: int = 4,
    seed: int = 0,
) -> Iterator[Neighbours]:
    """By an index of FAISS (arXiv:2401.08281), on GPUs where its build knows them.

    Args:
        bank: what is searched.
        queries: for what.
        k: neighbours of each; lists that are looked at may hold fewer, see `MISSING`.
        index: in FAISS's words: ``Flat`` is exact, ``IVF4096,Flat`` looks at some lists only, and
            ``IVF4096,PQ64x4fs`` also holds rows as codes, for banks that memory does not hold.
        probes: lists looked at.
        proposals: times `k` are taken from the index and compared.
        seed: of the rows that the index learns from.

    Raises:
        ValueError: FAISS is not installed.
    """
    faiss = _import_faiss()
    built = faiss.index_factory(bank.shape[1], index, faiss.METRIC_INNER_PRODUCT)
    if not built.is_trained:
        lists = faiss.extract_index_ivf(built)
        count = min(len(bank), max(TRAINING_ROWS * lists.nlist, PART))
        chosen = np.random.default_rng(seed).choice(len(bank), count, replace=False)
        built.train(_unit(bank[np.sort(chosen)]))
        lists.nprobe = probes
    if faiss.get_num_gpus():
        built = faiss.index_cpu_to_all_gpus(built)
    for part in _parts(bank):
        built.add(_unit(part))
    wanted = min(k if index == "Flat" else proposals * k, len(bank))

    def search(part: Rows) -> Neighbours:
        _, proposed = built.search(_unit(part), wanted)
        return compare(bank, part, proposed, min(k, len(bank)))

    return map(search, _parts(queries))


def gathered(parts: Iterable[Neighbours]) -> Neighbours:
    """Of all queries."""
    similarity, index = zip(*parts, strict=True)
    return Neighbours(np.concatenate(similarity), np.concatenate(index))


def compare(
    bank: Float[np.ndarray, "n D"],
    queries: Float[np.ndarray, "m D"],
    proposed: Int[np.ndarray, "m p"],
    k: int,
) -> Neighbours:
    """The `k` nearest of each query's proposals, by exact cosines; `MISSING` ones come last."""
    similarity = np.empty(proposed.shape, np.float32)
    for first in range(0, len(queries), COMPARED):
        here = slice(first, first + COMPARED)
        rows = _unit(bank[proposed[here].reshape(-1)]).reshape(*proposed[here].shape, -1)
        similarity[here] = np.einsum("mpd,md->mp", rows, _unit(queries[here]))
    similarity[proposed == MISSING] = -1
    order = np.lexsort((proposed, -similarity), axis=1)[:, :k]
    return Neighbours(
        np.take_along_axis(similarity, order, 1), np.take_along_axis(proposed, order, 1)
    )


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[first : first + PART] for first in range(0, len(rows), PART))


def _unit(rows: np.ndarray) -> Float[np.ndarray, "n D"]:
    wide = np.ascontiguousarray(rows, np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), EPSILON)


def _import_faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise ValueError(
            "searching by an index needs FAISS; pip install 'dinojax[curation]', or search on the "
            "mesh"
        ) from error
