"""The tree of clusters on disk, two tables per level, the finest is level 1.

``tree_l1.parquet`` has a row per record: ``child`` (its id), ``parent`` (its cluster) and
``squared_distance`` to the centre, and its ``label`` for reports (the class; null: none). In the
tables above, children are the clusters of the level below. ``centers_l1.parquet`` has the centres
in the order of the clusters. A level whose centres are there is done.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int, Int32

from dinojax.curation.hierarchy import Clusters, Level, Progress, Seeds, cluster, settled
from dinojax.curation.kmeans import State
from dinojax.curation.parts import Rows
from dinojax.curation.progress_file import agreed_progress, drop_progress, save_progress
from dinojax.curation.seeding import Seeding, on_host
from dinojax.curation.tables import list_column, read_lists, write_table
from dinojax.runtime.agreement import from_first
from dinojax.runtime.divided_files import await_all
from dinojax.typing import Key

SAVED_EVERY_S = 10
"""What is done by many small steps, seeds and splits."""
Records = Callable[[], pa.Table]
"""``id`` and ``label`` of the rows, once they are needed."""


class Step(NamedTuple):
    """What has been done; iterations are on disk, other steps are so before long."""

    level: int
    """From 1."""
    progress: Progress


class Tree(NamedTuple):
    """What `grow` has written."""

    ids: list[str]
    labels: Int32[np.ndarray, " n"]
    """-1: none."""
    parents: list[Int[np.ndarray, "_"]]
    """Of the records, the cluster of each; of each further level, the cluster that each cluster of
    the level below belongs to."""
    distance: Float[np.ndarray, " n"]
    """Squared, of each record to its centre."""


def grow(
    rows: Rows,
    records: Records,
    levels: Sequence[Level],
    key: Key,
    folder: Path,
    *,
    seeds: Seeds,
    chunk: int,
) -> Iterator[Step]:
    """The levels from the finest on; each clusters the centres of the one before, unweighted.

    The tables are left in `folder`. Ended anywhere and called again, it goes on after the last step
    that is on disk, bit for bit. Of several
    processes all make the same call, with a folder that they share, and the first one writes.
    """
    for number, level in enumerate(levels, 1):
        check_count(number, level, len(rows))
        if not from_first(f"level {number}", centers_path(folder, number).exists):
            own = jax.random.fold_in(key, number - 1)
            path = folder / f"progress_l{number}.npz"
            last = agreed_progress(path)
            saved = time.monotonic()
            for step in cluster(rows, level, own, seeds=seeds, chunk=chunk, start=last):
                last = step
                # Together: what lies over the devices of all is gathered only to be stored.
                late = functools.partial(_late, saved)
                if isinstance(last.state, State) or from_first("late", late):
                    _save(path, last)
                    saved = time.monotonic()
                yield Step(number, last)
            assert last is not None  # there is an iteration
            found = settled(rows, last, chunk)
            if jax.process_index() == 0:
                _write(folder, number, records, found)
        await_all([tree_path(folder, number), centers_path(folder, number)])
        if jax.process_index() == 0:
            drop_progress(folder / f"progress_l{number}.npz")
        rows = read_centers(folder, number)


def _late(saved: float) -> bool:
    return time.monotonic() - saved > SAVED_EVERY_S


def _save(path: Path, progress: Progress) -> None:
    state = progress.state
    if isinstance(state, Seeding):
        progress = progress._replace(state=on_host(state))
    if jax.process_index() == 0:
        save_progress(path, progress)


def check_count(number: int, level: Level, rows: int) -> None:
    """Raise a ValueError if there are fewer rows than clusters."""
    if level.clusters > rows:
        raise ValueError(
            f"level {number} of cluster.clusters wants {level.clusters} clusters of {rows} rows; "
            f"use at most {rows}, better a tenth"
        )


def _write(folder: Path, number: int, records: Records, found: Clusters) -> None:
    columns = {"parent": found.label.astype(np.int64), "squared_distance": found.distance}
    if number == 1:
        given = records()
        columns = {"child": given["id"], **columns, "label": given["label"]}
    else:
        columns = {"child": np.arange(len(found.label)), **columns}
    write_table(tree_path(folder, number), columns)
    write_table(centers_path(folder, number), {"center": list_column(found.centers)})


def tree_path(folder: Path, level: int) -> Path:
    return folder / f"tree_l{level}.parquet"


def centers_path(folder: Path, level: int) -> Path:
    return folder / f"centers_l{level}.parquet"


def read_centers(folder: Path, level: int) -> Float[np.ndarray, "K D"]:
    return read_lists(pq.read_table(centers_path(folder, level))["center"])


def read_parents(folder: Path, levels: int) -> list[Int[np.ndarray, "_"]]:
    """Of all levels, as `Tree` has them."""
    paths = [tree_path(folder, number) for number in range(1, levels + 1)]
    return [pq.read_table(path, columns=["parent"])["parent"].to_numpy() for path in paths]


def read_tree(folder: Path, levels: int) -> Tree:
    """All levels."""
    first = pq.read_table(tree_path(folder, 1), columns=["child", "label", "squared_distance"])
    return Tree(
        first["child"].to_pylist(),
        first["label"].fill_null(-1).to_numpy().astype(np.int32),
        read_parents(folder, levels),
        first["squared_distance"].to_numpy(),
    )
