"""The stage ``cluster``: features on disk to a tree of clusters (`dinojax.curation.tree`)."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow.parquet as pq
from absl import logging

from dinojax.curation.balance import flat_sizes
from dinojax.curation.cluster_bars import show
from dinojax.curation.embeddings import RowsOptions, list_records
from dinojax.curation.evenness import evenness
from dinojax.curation.hierarchy import Level, Seeds
from dinojax.curation.parallel_seeding import MOST_ROWS, parallel_seeds
from dinojax.curation.progress_bar import progress_bar
from dinojax.curation.seeding import greedy_seeds
from dinojax.curation.sorted_rows import (
    ROWS,
    RowFile,
    SortedRows,
    drop_rows,
    find_sorted,
    made_of,
    read_records,
    sort_rows,
)
from dinojax.curation.stage_folder import REPORT, check_same, claim, finish, read_inputs
from dinojax.curation.tree import (
    centers_path,
    check_count,
    grow,
    read_parents,
    tree_path,
)
from dinojax.runtime.agreement import await_visible, from_first
from dinojax.runtime.contract import changes

SEEDING: dict[str, Seeds] = {"greedy": greedy_seeds, "parallel": parallel_seeds}
NAME = "cluster.rows"
LEAST_SPREAD, LOOKED_AT = 1e-6, 2**14


@dataclass(frozen=True)
class ClusterOptions:
    """Hierarchical k-means with resampling (`dinojax.curation.hierarchy`)."""

    rows: RowsOptions = RowsOptions()
    unit_rows: bool = False
    """Bring rows to length 1 first. The released code of arXiv:2405.15613 does not."""
    clusters: tuple[int, ...] = (1000, 100)
    """Of each level, the finest first; each clusters the centres of the one before."""
    rounds: tuple[int, ...] = (0, 9)
    """Of resampling in each level, after the plain one."""
    kept: tuple[int, ...] = (1, 5)
    """Rows per cluster in these; about half of what a cluster holds in the mean."""
    splits: tuple[int, ...] = ()
    """Of each level: into so many every cluster is split, by k-means of its own rows; 1: not split.
    Excludes rounds in this level. (): none is."""
    iterations: int = 50
    """Of Lloyd's algorithm in each round."""
    tolerance: float = 0.0
    """Ends a round early once the inertia falls by less than this share."""
    reseed_empty: bool = False
    """Move centres without rows to the rows farthest from theirs, at the price of a pass over the
    rows. The released code of arXiv:2405.15613 leaves them where they are."""
    seeding: str = "greedy"
    """"greedy": k-means++, for up to some 20,000 clusters of rows in one chunk. "parallel":
    k-means||, for more."""
    chunk_rows: int = 2**20
    """That are computed with at a time; the devices hold twice as many. The result does not depend
    on it."""


def cluster_stage(options: ClusterOptions, seed: int, folder: Path) -> dict[str, Any]:
    """Do what is left of it; the report.

    Of several processes all make this call, with a folder that they share. The first one sorts the
    rows and writes what there is to write; each reads of the rows what its devices hold.

    Raises:
        ValueError or FileNotFoundError: options or rows that do not fit, or a folder of others.
    """
    levels = levels_of(options)
    start = time.perf_counter()
    shelf = folder.with_name(f"{folder.name}_rows")
    begun = from_first("cluster", lambda: _begin(options, levels, seed, folder, shelf))
    if "report" in begun:
        return begun["report"]
    rows = RowFile(shelf / ROWS, tuple(begun["shape"]))
    await_visible(rows.path, "process 0", rows.exists)
    read_s = time.perf_counter() - start
    steps = grow(
        rows,
        lambda: read_records(shelf),
        levels,
        jax.random.key(seed),
        folder,
        seeds=SEEDING[options.seeding],
        chunk=options.chunk_rows,
    )
    show(steps, levels)

    def end() -> dict[str, Any]:
        found = {
            "rows_in": len(rows),
            "rows_out": len(rows),
            "levels": [_level(sizes) for sizes in _sizes(folder, len(levels))],
            "seconds": {"read": read_s, "all": time.perf_counter() - start},
        }
        numbers = range(1, len(levels) + 1)
        paths = [path(folder, number) for number in numbers for path in (tree_path, centers_path)]
        report = finish(folder, found, paths)
        drop_rows(shelf)
        return report

    return from_first("report", end)


def _begin(
    options: ClusterOptions, levels: Sequence[Level], seed: int, folder: Path, shelf: Path
) -> dict[str, Any]:
    """The shape of the sorted rows, or the report if all has been done before.

    What differs from an earlier call and is known without sorting is refused before.
    """
    origin = made_of(options.rows, NAME, unit_rows=options.unit_rows)
    inputs, before, found = _inputs(options, seed), read_inputs(folder), find_sorted(shelf)
    if before is not None:
        check_same(folder, before, before | inputs)
        if found is not None:
            _check_files(folder, shelf, found.made_of, origin)
    done = (folder / REPORT).exists()
    old = found is not None and found.made_of == origin and (done or found.rows.exists())
    found = found if found is not None and old else _sorted(options, levels, shelf)
    _check_counts(levels, len(found.rows), options)
    try:
        report = claim(folder, inputs | {"rows": found.fingerprint})
    except ValueError:
        if not old:
            shutil.rmtree(shelf)
        raise
    if report is not None:
        drop_rows(shelf)
        return {"report": report}
    return {"shape": found.rows.shape}


def _check_files(folder: Path, shelf: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    different = changes(before, now)
    if different:
        raise ValueError(
            f"{folder} is of other rows: {'; '.join(different)}; give another --workdir, or delete "
            f"{shelf} to have these rows sorted and compared with those"
        )


def _sorted(options: ClusterOptions, levels: Sequence[Level], shelf: Path) -> SortedRows:
    """The rows in their order, on disk."""
    listing = list_records(options.rows, NAME)
    _check_counts(levels, len(listing.ids), options)
    logging.info("cluster: %d rows are sorted into %s", len(listing.ids), shelf)
    with progress_bar("cluster: sort", 2 * len(listing.ids), "moves of rows") as bar:
        found = sort_rows(
            options.rows, NAME, listing, shelf, unit_rows=options.unit_rows, on_rows=bar.update
        )
    try:
        _check_spread(found.rows[:LOOKED_AT])
    except ValueError:
        shutil.rmtree(shelf)
        raise
    return found


def levels_of(options: ClusterOptions) -> list[Level]:
    """What k-means is to do, the finest level first.

    Raises:
        ValueError: numbers outside their range, or not as many of each.
    """
    if options.seeding not in SEEDING:
        known = ", ".join(map(repr, SEEDING))
        raise ValueError(f"cluster.seeding={options.seeding!r} is unknown; use one of {known}")
    if options.chunk_rows < 1:
        raise ValueError(f"cluster.chunk_rows={options.chunk_rows} must be at least 1; use {2**20}")
    if not options.clusters:
        raise ValueError("cluster.clusters is empty; give some, such as (1000, 100)")
    splits = options.splits or (1,) * len(options.clusters)
    for name, given in (("rounds", options.rounds), ("kept", options.kept), ("splits", splits)):
        if len(given) != len(options.clusters):
            example = (given or (1,))[:1] * len(options.clusters)
            raise ValueError(
                f"cluster.{name}={given} must have one number for each of "
                f"cluster.clusters={options.clusters}; use {example}"
            )
    numbers = zip(options.clusters, options.rounds, options.kept, splits, strict=True)
    names = ("iterations", "tolerance", "reseed_empty")
    shared = {name: getattr(options, name) for name in names}
    return [
        Level(clusters, rounds, kept, split=split, **shared)
        for clusters, rounds, kept, split in numbers
    ]


def _check_counts(levels: Sequence[Level], rows: int, options: ClusterOptions) -> None:
    if rows > MOST_ROWS:
        raise ValueError(
            f"cluster.rows has {rows} rows, and no more than {MOST_ROWS} can be numbered; list some"
            " of them in cluster.rows.ids"
        )
    if options.seeding == "greedy" and rows > options.chunk_rows:
        raise ValueError(
            f"cluster.seeding='greedy' needs all {rows} rows in one chunk, and "
            f"cluster.chunk_rows={options.chunk_rows}; use cluster.seeding='parallel', or "
            f"cluster.chunk_rows={rows} where the devices hold them"
        )
    for number, level in enumerate(levels, 1):
        check_count(number, level, rows)
        rows = min(level.clusters * level.split, rows)  # at most


def _check_spread(some: np.ndarray) -> None:
    """What differs by less drowns in the rounding of distances. The first rows are random ones."""
    some = some.astype(np.float64)
    spread = some.var(axis=0).sum() / max(np.square(some).sum(axis=1).mean(), 1e-300)
    if len(some) > 1 and spread < LEAST_SPREAD:
        raise ValueError(
            f"cluster.rows hardly differ: they vary by {spread:.1e} of their squared length, which "
            f"must be at least {LEAST_SPREAD}; embed with a trained backbone, and take copies out"
        )


def _inputs(options: ClusterOptions, seed: int) -> dict[str, Any]:
    """All but the rows. Paths and what changes nothing are left out."""
    names = (
        *("unit_rows", "clusters", "rounds", "kept", "splits"),
        *("iterations", "tolerance", "reseed_empty", "seeding"),
    )
    return {"seed": seed, **{name: getattr(options, name) for name in names}}


def _sizes(folder: Path, levels: int) -> list[np.ndarray]:
    *below, top = flat_sizes(read_parents(folder, levels))
    clusters = pq.read_metadata(centers_path(folder, levels)).num_rows
    return [*below, np.pad(top, (0, clusters - len(top)))]  # the last ones may be empty


def _level(sizes: np.ndarray) -> dict[str, Any]:
    """Of one level: how many records lie below its clusters."""
    low, middle, high = (int(np.quantile(sizes, q)) for q in (0, 0.5, 1))
    return {
        "clusters": len(sizes),
        "empty": int((sizes == 0).sum()),
        "records": {"least": low, "median": middle, "most": high},
        "evenness": evenness(sizes)._asdict(),
    }
