"""Nearest rows of a bank by cosine: exactly on the mesh, or by an index of FAISS on one machine.

Every search has the form ``(bank, queries, k)`` and yields the neighbours of one part of the
queries after the other. Bank and queries may lie in files; of these, memory holds some at a time.

Cosines are exact: those of quantised rows must never meet a threshold, which would then miss
duplicates that an exact search finds. So an approximate index only proposes rows, which are
compared anew.
"""

import functools
import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dinojax.curation.parts import Chunk, Rows, chunks_of
from dinojax.evaluation import nearest
from dinojax.evaluation.nearest import Neighbours
from dinojax.precision import host_unit_rows

Search = Callable[[Rows, Rows, int], Iterator[Neighbours]]

CHUNK_ROWS = 2**20
"""Rows of a bank that the devices search at a time."""
PART = 2**14
"""Rows that are normed, added to an index or searched for at a time."""
COMPARED = 64
"""Queries whose proposals are compared at a time."""
TRAINING_ROWS = 64
"""For each of its lists, so many rows of the bank are what an index learns from."""
PROBES = 16
"""Lists of an index that are looked at, unless more are asked for."""
MISSING = -1
"""The index of a neighbour that was not found; its cosine is -1."""
NOT_ON_GPUS = re.compile("fs|HNSW")
"""Fast scans and graphs, as FAISS calls them."""


def search_by(
    index: str | None, width: int, *, probes: int, seed: int, chunk: int, name: str
) -> Search:
    """`by_faiss` with this index; None: `by_mesh`.

    Args:
        width: of the rows.
        name: of `index` in the configuration, for messages.

    Raises:
        ValueError: FAISS is wanted and not installed, or as `make_index`.
    """
    if index is None:
        return functools.partial(by_mesh, chunk=chunk)
    make_index(index, width, name)
    return functools.partial(by_faiss, index=index, probes=probes, seed=seed)


def by_mesh(bank: Rows, queries: Rows, k: int, *, chunk: int = CHUNK_ROWS) -> Iterator[Neighbours]:
    """Exactly (`dinojax.evaluation.nearest`), with `chunk` rows of the bank on the devices at a
    time; the next ones come while these are still there.

    A bank of one chunk stays there. One of several is read anew for every `chunk` of the queries,
    and the host holds those and the nearest of each so far.
    """
    chunks, k = chunks_of(bank, chunk), min(k, len(bank))
    block = PART if len(bank) <= chunk else chunk
    for start in range(0, len(queries), block):
        parts = list(_parts(queries, start, min(start + block, len(queries))))
        best, first = [_none(len(part)) for part in parts], 0
        for one in chunks():
            found = _of_chunk(one, parts, k, first)
            best = [_merged(*both, k) for both in zip(best, found, strict=True)]
            first += int(one.count)
        yield from best


def _of_chunk(
    chunk: Chunk, parts: Iterable[np.ndarray], k: int, first: int
) -> Iterator[Neighbours]:
    """On the host, for each part of queries; rows of the chunk are numbered from `first` on."""
    pending, count = None, int(chunk.count)
    for part in [*parts, None]:
        following = None
        if part is not None:
            following = nearest.search(chunk.rows, part, k=min(k, count), count=count)
        if pending is not None:  # dealt with while the devices compute the following
            index = np.asarray(pending.index).astype(np.int64) + first
            yield Neighbours(np.asarray(pending.similarity), index)
        pending = following


def _none(queries: int) -> Neighbours:
    return Neighbours(np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64))


def _merged(before: Neighbours, found: Neighbours, k: int) -> Neighbours:
    """The `k` nearest of both; of equally near rows those `before`, which the bank has first."""
    similarity = np.concatenate([before.similarity, found.similarity], axis=1)
    index = np.concatenate([before.index, found.index], axis=1)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return _ordered(similarity, index, order)


def _ordered(
    similarity: Float[np.ndarray, "m p"],
    index: Int[np.ndarray, "m p"],
    order: Int[np.ndarray, "m k"],
) -> Neighbours:
    return Neighbours(np.take_along_axis(similarity, order, 1), np.take_along_axis(index, order, 1))


def by_faiss(
    bank: Rows,
    queries: Rows,
    k: int,
    *,
    index: str = "Flat",
    probes: int = PROBES,
    proposals: int = 4,
    seed: int = 0,
) -> Iterator[Neighbours]:
    """By an index of FAISS (arXiv:2401.08281), on GPUs where its build knows them.

    Args:
        bank: what is searched; exactly, if it has fewer rows than the index has lists or codes.
        queries: for what.
        k: neighbours of each; lists that are looked at may hold fewer, see `MISSING`.
        index: in FAISS's words: ``Flat`` is exact, ``IVF4096,Flat`` looks at some lists only, and
            ``IVF4096,PQ64x4fs`` also holds rows as codes, for banks that memory does not hold.
        probes: lists looked at.
        proposals: times `k` are taken from the index and compared.
        seed: of the rows that the index learns from.

    Raises:
        ValueError: FAISS is not installed, or as `make_index`.
    """
    faiss, built = _import_faiss(), make_index(index, bank.shape[1])
    if not built.is_trained and len(bank) < _least_rows(built):
        index, built = "Flat", make_index("Flat", bank.shape[1])
    if not built.is_trained:
        lists = faiss.extract_index_ivf(built)
        count = min(len(bank), max(TRAINING_ROWS * lists.nlist, PART))
        chosen = np.random.default_rng(seed).choice(len(bank), count, replace=False)
        built.train(_unit(bank[np.sort(chosen)]))
        lists.nprobe = probes
    if faiss.get_num_gpus() and not NOT_ON_GPUS.search(index):
        built = faiss.index_cpu_to_all_gpus(built)
    for part in _parts(bank):
        built.add(_unit(part))
    wanted = min(k if index == "Flat" else proposals * k, len(bank))

    def search(part: Float[np.ndarray, "m D"]) -> Neighbours:
        _, proposed = built.search(_unit(part), wanted)
        return compare(bank, part, proposed, min(k, len(bank)))

    return map(search, _parts(queries))


def make_index(index: str, width: int, name: str = "index") -> Any:
    """An empty one of FAISS, by cosine.

    Raises:
        ValueError: FAISS is not installed, or has no such index for this width.
    """
    faiss = _import_faiss()
    try:
        built = faiss.index_factory(width, index, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        reason = str(error).strip().rpartition("failed: ")[2]
        raise ValueError(
            f"{name}={index!r} is no index of FAISS for rows of width {width} ({reason}); use one "
            "such as 'IVF4096,Flat', or None"
        ) from error
    if not built.is_trained and faiss.try_extract_index_ivf(built) is None:
        raise ValueError(
            f"{name}={index!r} learns from rows and has no lists; use it with some, as "
            f"'IVF4096,{index}'"
        )
    return built


def _least_rows(index: Any) -> int:
    """That it can learn from."""
    faiss = _import_faiss()
    lists = faiss.downcast_index(faiss.extract_index_ivf(index))
    return max(lists.nlist, lists.pq.ksub if hasattr(lists, "pq") else 0)


def gathered(parts: Iterable[Neighbours]) -> Neighbours:
    """Of all queries."""
    similarity, index = zip(*parts, strict=True)
    return Neighbours(np.concatenate(similarity), np.concatenate(index))


def compare(
    bank: Rows,
    queries: Float[np.ndarray, "m D"],
    proposed: Int[np.ndarray, "m p"],
    k: int,
) -> Neighbours:
    """The `k` nearest of each query's proposals, by exact cosines; `MISSING` ones come last."""
    similarity = np.empty(proposed.shape, np.float32)
    for first in range(0, len(queries), COMPARED):
        here = slice(first, first + COMPARED)
        there = proposed[here] != MISSING
        places, back = np.unique(proposed[here][there], return_inverse=True)
        rows = np.zeros((*there.shape, bank.shape[1]), np.float32)
        rows[there] = _unit(bank[places])[back]
        similarity[here] = np.einsum("mpd,md->mp", rows, _unit(queries[here]))
    similarity[proposed == MISSING] = -1
    order = np.lexsort((proposed, -similarity), axis=1)[:, :k]
    return _ordered(similarity, proposed, order)


def _parts(rows: Rows, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    stop = len(rows) if stop is None else stop
    return (rows[first : min(first + PART, stop)] for first in range(start, stop, PART))


def _unit(rows: np.ndarray) -> Float[np.ndarray, "n D"]:
    return host_unit_rows(np.ascontiguousarray(rows, np.float32))


def _import_faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise ValueError(
            "searching by an index needs FAISS; pip install 'dinojax[curation]', or search on the "
            "mesh"
        ) from error
