"""Trees of clusters, and samples from them, by what the stages use."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dinojax.curation.balance import flat_sizes, quotas, taken
from dinojax.curation.hierarchy import Clusters, Level, Seeds
from dinojax.curation.seeding import greedy_seeds
from dinojax.curation.tree import grow, read_centers, tree_path
from dinojax.typing import Key


def climb(
    rows: np.ndarray,
    levels: Sequence[Level],
    key: Key,
    *,
    seeds: Seeds = greedy_seeds,
    chunk: int = 2**20,
) -> list[Clusters]:
    """What `grow` leaves, of each level."""
    count = len(rows)
    records = pa.table({"id": list(map(str, range(count))), "label": pa.nulls(count, pa.int32())})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in grow(rows, lambda: records, levels, key, folder, seeds=seeds, chunk=chunk):
            pass
        return [_read(folder, number) for number in range(1, len(levels) + 1)]


def _read(folder: Path, number: int) -> Clusters:
    table = pq.read_table(tree_path(folder, number))
    label, distance = (table[name].to_numpy() for name in ("parent", "squared_distance"))
    return Clusters(read_centers(folder, number), label, distance)


def balanced_sample(
    parents: Sequence[np.ndarray],
    ids: np.ndarray,
    target: int,
    *,
    seed: int,
    multiplicity: int = 1,
    distance: np.ndarray | None = None,
) -> np.ndarray:
    """How often each row is taken."""
    flat = flat_sizes(parents)
    quota = quotas(flat, parents[1:], target, seed=seed, multiplicity=multiplicity)
    return taken(parents[0], ids, flat[0], quota, seed=seed, distance=distance)
