"""The stage ``retrieve``: records of a pool that are like those of curated sets.

``selection.parquet`` has ``id`` and ``multiplicity``, how many seeds asked for it: what
``data.ids`` and the source ``ids:FILE:SPEC`` read, which take a record that often.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from dinojax.curation.embeddings import RowsOptions, numbers_of
from dinojax.curation.hierarchy import assign_all
from dinojax.curation.named import check_names
from dinojax.curation.parts import Rows
from dinojax.curation.progress_bar import progress_bar, tracked
from dinojax.curation.retrieve import Retrieved, retrieve_clusters, retrieve_nearest
from dinojax.curation.row_sets import RowSet, claim_rows, drop_sets, list_set
from dinojax.curation.search import CHUNK_ROWS, PROBES, gathered, search_by
from dinojax.curation.stage_folder import SELECTION, finish, read_report
from dinojax.curation.tables import write_table
from dinojax.curation.tree import read_centers, read_tree
from dinojax.precision import host_unit_rows


@dataclass(frozen=True)
class RetrieveOptions:
    """Retrieval (`dinojax.curation.retrieve`); the defaults are those of arXiv:2304.07193."""

    seeds: RowsOptions = RowsOptions()
    """Of the curated set."""
    name: str | None = None
    """Of this set, where several retrieve: each leaves a list of its own, in ``retrieve-NAME``."""
    by: str = "neighbours"
    """"neighbours": the nearest records of each seed, for sets of more than a million. "clusters":
    records of the clusters that seeds fall into, for smaller ones; needs the stage ``cluster``."""
    rows: RowsOptions = RowsOptions()
    """The pool of "neighbours". That of "clusters" is what has been clustered."""
    neighbours: int = 4
    """Of each seed; the paper has 32 for ImageNet-1k."""
    index: str | None = None
    """Of FAISS, as "IVF4096,Flat". None: exact, on all devices."""
    probes: int = PROBES
    """Lists of the index that are looked at; more find more, and take longer."""
    chunk_rows: int = CHUNK_ROWS
    """That are computed with at a time; the devices hold twice as many, and the host as many. The
    result does not depend on it."""
    least_seeds: int = 4
    """That a cluster of the finest level must hold to be asked."""
    per_cluster: int = 10_000
    """Records taken of each, at random."""
    cap: int = 1_000_000
    """Records in all."""

    @property
    def stage(self) -> str:
        """The name of its folder."""
        return "retrieve" if self.name is None else f"retrieve-{self.name}"


class Way(NamedTuple):
    """How to retrieve, before it is done."""

    inputs: dict[str, Any]
    pool: RowSet | None
    """What is read of it besides the seeds."""
    ids: pa.LargeStringArray
    """Of the pool."""
    retrieve: Callable[[Sequence[Rows], tqdm], Retrieved]
    """Of the rows of seeds, and of the pool if it is read, with a bar of the seeds."""


def retrieve_stage(
    options: RetrieveOptions, seed: int, folder: Path, clusters: Path
) -> dict[str, Any]:
    """The report.

    Args:
        clusters: the folder of the stage ``cluster``.

    Raises:
        ValueError or FileNotFoundError: options or rows that do not fit, a
            tree that is not finished, or a folder of other inputs.
    """
    _check(options)
    start = time.perf_counter()
    seeds = list_set(options.seeds, "retrieve.seeds")
    if options.by == "neighbours":
        way = by_neighbours(options, seed, seeds)
    else:
        way = by_clusters(options, seed, seeds, clusters)
    inputs = {"by": options.by, "seed": seed, **way.inputs}
    sets = [seeds] if way.pool is None else [seeds, way.pool]
    report, rows = claim_rows(
        folder, inputs, sets, lambda keys: dict(zip(("seeds", "rows"), keys, strict=False))
    )
    if report is not None:
        return report
    count = len(seeds.listing.ids)
    with progress_bar("retrieve", count, "seeds") as bar:
        found = way.retrieve(rows, bar)
    path, ids = folder / SELECTION, way.ids.take(pa.array(found.rows))
    write_table(path, {"id": ids, "multiplicity": found.multiplicity})
    counts = {
        "rows_in": len(way.ids),
        "seeds": count,
        "rows_out": len(ids),
        "copies_out": int(found.multiplicity.sum()),
        "collision_rate": found.collision_rate,
    }
    report = finish(folder, counts | {"seconds": {"all": time.perf_counter() - start}}, [path])
    drop_sets(folder)
    return report


def by_neighbours(options: RetrieveOptions, seed: int, seeds: RowSet) -> Way:
    """The nearest of the pool, as often as seeds ask for them."""
    pool = list_set(options.rows, "retrieve.rows")
    _check_width(seeds, pool.listing.width, "the pool")
    search = search_by(
        options.index,
        pool.listing.width,
        probes=options.probes,
        seed=seed,
        chunk=options.chunk_rows,
        name="retrieve.index",
    )
    inputs = {"neighbours": options.neighbours, "index": options.index}
    inputs |= {} if options.index is None else {"probes": options.probes}

    def retrieve(rows: Sequence[Rows], bar: tqdm) -> Retrieved:
        own, bank = rows
        parts = search(bank, own, options.neighbours)
        return retrieve_nearest(gathered(tracked(parts, bar, lambda part: len(part.index))))

    return Way(inputs, pool, pool.listing.ids, retrieve)


def by_clusters(options: RetrieveOptions, seed: int, seeds: RowSet, clusters: Path) -> Way:
    """Some of the clusters that seeds fall into, each once."""
    report = read_report(clusters)
    tree, centers = read_tree(clusters, 1), read_centers(clusters, 1)
    _check_width(seeds, centers.shape[1], f"the centres of {clusters}")
    names = ("least_seeds", "per_cluster", "cap")
    limits = {name: getattr(options, name) for name in names}
    chunk = options.chunk_rows

    def retrieve(rows: Sequence[Rows], bar: tqdm) -> Retrieved:
        (own,) = rows
        label = []
        for first in range(0, len(own), chunk):
            part = own[first : first + chunk]
            part = host_unit_rows(part) if report["inputs"]["unit_rows"] else part
            label.append(assign_all(part, centers, chunk)[0])
            bar.update(len(part))
        numbers = numbers_of(tree.ids)
        found = retrieve_clusters(
            tree.parents[0], numbers, np.concatenate(label), seed=seed, **limits
        )
        return Retrieved(found, np.ones(len(found), np.int64))

    ids = pa.array(tree.ids, pa.large_string())
    return Way({"tree": report["fingerprint"], **limits}, None, ids, retrieve)


def _check(options: RetrieveOptions) -> None:
    if options.name is not None:
        check_names([(options.name, "")], "retrieve.name")
    if options.by not in ("neighbours", "clusters"):
        raise ValueError(
            f"retrieve.by={options.by!r} is unknown; use one of 'neighbours', 'clusters'"
        )
    for name in ("neighbours", "least_seeds", "per_cluster", "cap", "probes", "chunk_rows"):
        value, usual = (getattr(one, name) for one in (options, RetrieveOptions()))
        if value < 1:
            raise ValueError(f"retrieve.{name}={value} must be at least 1; use {usual}")


def _check_width(seeds: RowSet, width: int, what: str) -> None:
    if seeds.listing.width != width:
        raise ValueError(
            f"retrieve.seeds have the width {seeds.listing.width} and {what} {width}; embed both "
            "alike"
        )
