"""The table of pairs: which rows are alike, and how much.

``one`` and ``other`` are numbers of rows, ``similarity`` is their cosine. A pair is there once,
with ``one < other``, in the order of these. The file also says how many lists of neighbours were
full (`full_lists`): pairs may be missing behind their ends.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from dinojax.curation.duplicates import Pairs
from dinojax.curation.progress_bar import progress_bar, tracked
from dinojax.curation.tables import write_parts
from dinojax.evaluation.nearest import Neighbours

SCHEMA = pa.schema([("one", pa.int64()), ("other", pa.int64()), ("similarity", pa.float32())])
FULL = b"full_lists"


def found_pairs(
    parts: Iterable[Neighbours],
    bank: Int[np.ndarray, " n"],
    queries: Int[np.ndarray, " m"],
    threshold: float,
) -> tuple[Pairs, int]:
    """(pairs of a search, how many lists of neighbours are full); no more is kept of `parts`.

    Args:
        bank, queries: numbers of the rows that were searched, and searched for.
    """
    found, full, done = [], 0, 0
    with progress_bar("dedup: search", len(queries), "records") as bar:
        for part in tracked(parts, bar, lambda part: len(part.index)):
            numbered = Neighbours(part.similarity, bank[part.index])
            stop = done + len(part.index)
            found.append(similar_pairs(numbered, queries[done:stop], threshold))
            full += count_full(part, threshold, len(bank))
            done = stop
    return Pairs(*map(np.concatenate, zip(*found, strict=True))), full


def similar_pairs(
    neighbours: Neighbours, queries: Int[np.ndarray, " m"], threshold: float
) -> Pairs:
    """Rows and neighbours more similar than `threshold`, other than a row with itself.

    Args:
        neighbours: their index is a row's number.
        queries: the numbers of the rows whose neighbours these are.
        threshold: of cosines.
    """
    similarity, index = (np.asarray(x) for x in neighbours)
    one = np.broadcast_to(queries[:, None], index.shape)
    joined = (similarity > threshold) & (index != one)
    return Pairs(one[joined], index[joined].astype(np.int64), similarity[joined])


def count_full(neighbours: Neighbours, threshold: float, rows: int) -> int:
    """How many lists of neighbours end above `threshold`, though they do not hold all `rows` of the
    bank."""
    last = np.asarray(neighbours.similarity)[:, -1]
    return int((last > threshold).sum()) if neighbours.index.shape[1] < rows else 0


def write_pairs(path: Path, pairs: Pairs, full: int = 0) -> None:
    """Of a pair found from both sides, the larger similarity counts.

    Args:
        full: how many lists of neighbours the pairs come from were full.
    """
    one, other = np.minimum(pairs.one, pairs.other), np.maximum(pairs.one, pairs.other)
    order = np.lexsort((-pairs.similarity, other, one))
    one, other, similarity = one[order], other[order], pairs.similarity[order]
    once = np.ones(len(one), bool)
    once[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
    columns = [one[once], other[once], similarity[once].astype(np.float32)]
    schema = SCHEMA.with_metadata({FULL: str(full)})
    write_parts(path, schema, [pa.table(columns, schema=schema)])


def full_lists(path: Path) -> int:
    """What `write_pairs` was given."""
    return int(pq.read_schema(path).metadata[FULL])
