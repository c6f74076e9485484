"""The table of pairs: which rows are alike, and how much.

``one`` and ``other`` are numbers of rows, ``similarity`` is their cosine. A pair is there once,
with ``one < other``, in the order of these.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from dinojax.curation.duplicates import Pairs
from dinojax.curation.tables import write_parts
from dinojax.evaluation.nearest import Neighbours

SCHEMA = pa.schema([("one", pa.int64()), ("other", pa.int64()), ("similarity", pa.float32())])


def similar_pairs(neighbours: Neighbours, threshold: float) -> Pairs:
    """Rows and neighbours more similar than `threshold`, other than a row with itself.

    Args:
        neighbours: of all rows of a bank in their order, from a search of that bank.
        threshold: of cosines.
    """
    similarity, index = (np.asarray(x) for x in neighbours)
    one = np.broadcast_to(np.arange(len(index))[:, None], index.shape)
    joined = (similarity > threshold) & (index != one)
    return Pairs(one[joined], index[joined].astype(np.int64), similarity[joined])


def write_pairs(path: Path, pairs: Pairs) -> None:
    """Of a pair found from both sides, the larger similarity counts."""
    one, other = np.minimum(pairs.one, pairs.other), np.maximum(pairs.one, pairs.other)
    order = np.lexsort((-pairs.similarity, other, one))
    one, other, similarity = one[order], other[order], pairs.similarity[order]
    once = np.ones(len(one), bool)
    once[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
    columns = [one[once], other[once], similarity[once].astype(np.float32)]
    write_parts(path, SCHEMA, [pa.table(columns, schema=SCHEMA)])
