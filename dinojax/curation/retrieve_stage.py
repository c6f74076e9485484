"""The stage ``retrieve``: records of a pool that are like those of curated sets.

``selection.parquet`` has ``id`` and ``multiplicity``, how many seeds asked for it: what
``data.ids`` and the source ``ids:FILE:SPEC`` read, which take a record that often.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from dinojax.curation.embeddings import Embeddings, RowsOptions, numbers_of, read_embeddings, unit
from dinojax.curation.hierarchy import assign_all
from dinojax.curation.named import check_names
from dinojax.curation.progress_bar import progress_bar, tracked
from dinojax.curation.retrieve import Retrieved, retrieve_clusters, retrieve_nearest
from dinojax.curation.search import gathered, search_by
from dinojax.curation.stage_folder import SELECTION, claim, finish, read_report
from dinojax.curation.tables import write_table
from dinojax.curation.tree import read_centers, read_tree

CHUNK = 2**20
"""Seeds that the devices hold at a time."""


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
    ids: list[str]
    """Of the pool."""
    retrieve: Callable[[tqdm], Retrieved]
    """With a bar of the seeds."""


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
    seeds = read_embeddings(options.seeds, "retrieve.seeds")
    if options.by == "neighbours":
        way = by_neighbours(options, seed, seeds)
    else:
        way = by_clusters(options, seed, seeds, clusters)
    inputs = {"by": options.by, "seed": seed, "seeds": seeds.fingerprint, **way.inputs}
    report = claim(folder, inputs)
    if report is not None:
        return report
    with progress_bar("retrieve", len(seeds.ids), "seeds") as bar:
        found = way.retrieve(bar)
    path = folder / SELECTION
    ids = [way.ids[place] for place in found.rows]
    write_table(path, {"id": pa.array(ids, pa.large_string()), "multiplicity": found.multiplicity})
    counts = {
        "rows_in": len(way.ids),
        "seeds": len(seeds.ids),
        "rows_out": len(ids),
        "copies_out": int(found.multiplicity.sum()),
        "collision_rate": found.collision_rate,
    }
    return finish(folder, counts | {"seconds": {"all": time.perf_counter() - start}}, [path])


def by_neighbours(options: RetrieveOptions, seed: int, seeds: Embeddings) -> Way:
    """The nearest of the pool, as often as seeds ask for them."""
    pool = read_embeddings(options.rows, "retrieve.rows")
    _check_width(seeds, pool.rows.shape[1], "the pool")
    search = search_by(options.index, seed)
    inputs = {"rows": pool.fingerprint, "neighbours": options.neighbours, "index": options.index}

    def retrieve(bar: tqdm) -> Retrieved:
        parts = search(pool.rows, seeds.rows, options.neighbours)
        return retrieve_nearest(gathered(tracked(parts, bar, lambda part: len(part.index))))

    return Way(inputs, pool.ids, retrieve)


def by_clusters(options: RetrieveOptions, seed: int, seeds: Embeddings, clusters: Path) -> Way:
    """Some of the clusters that seeds fall into, each once."""
    report = read_report(clusters)
    tree, centers = read_tree(clusters, 1), read_centers(clusters, 1)
    _check_width(seeds, centers.shape[1], f"the centres of {clusters}")
    names = ("least_seeds", "per_cluster", "cap")
    limits = {name: getattr(options, name) for name in names}

    def retrieve(bar: tqdm) -> Retrieved:
        rows = unit(seeds.rows) if report["inputs"]["unit_rows"] else seeds.rows
        parts = (rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK))
        label = np.concatenate(
            [assign_all(part, centers, CHUNK)[0] for part in tracked(parts, bar, len)]
        )
        numbers = numbers_of(tree.ids)
        found = retrieve_clusters(tree.parents[0], numbers, label, seed=seed, **limits)
        return Retrieved(found, np.ones(len(found), np.int64))

    return Way({"tree": report["fingerprint"], **limits}, tree.ids, retrieve)


def _check(options: RetrieveOptions) -> None:
    if options.name is not None:
        check_names([(options.name, "")], "retrieve.name")
    if options.by not in ("neighbours", "clusters"):
        raise ValueError(
            f"retrieve.by={options.by!r} is unknown; use one of 'neighbours', 'clusters'"
        )
    for name in ("neighbours", "least_seeds", "per_cluster", "cap"):
        if getattr(options, name) < 1:
            raise ValueError(f"retrieve.{name}={getattr(options, name)} must be at least 1; use 4")


def _check_width(seeds: Embeddings, width: int, what: str) -> None:
    if seeds.rows.shape[1] != width:
        raise ValueError(
            f"retrieve.seeds have the width {seeds.rows.shape[1]} and {what} {width}; embed both "
            "alike"
        )
