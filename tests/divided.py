"""A runner whose tables lie in many shards, in any order: what an engine may do to rows."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dinojax.curation.runners import Local, LocalTables


def divide(table: pa.Table, shards: int, seed: int = 0) -> LocalTables:
    """Shuffled, and cut where it happens."""
    rng = np.random.default_rng(seed)
    table = table.take(pa.array(rng.permutation(len(table))))
    cuts = np.sort(rng.integers(0, len(table) + 1, shards - 1))
    ends = zip([0, *cuts], [*cuts, len(table)], strict=True)
    return LocalTables([table.slice(first, end - first) for first, end in ends])


@dataclass(frozen=True)
class Divided(Local):
    shards: int

    def read(self, path, columns):
        return divide(super().read(path, columns).all(), self.shards)
