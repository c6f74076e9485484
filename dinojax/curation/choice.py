"""Which records of its clusters a sample takes, where records are more than a machine holds."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from dinojax.curation.balance import taken
from dinojax.curation.embeddings import numbers_of


@dataclass(frozen=True)
class Choice:
    """Of a table whose records are whole clusters, as ``tree_l1.parquet`` has them with ``row``:
    those that are taken, with their ``id`` and ``multiplicity``."""

    size: Int[np.ndarray, " k"]
    """Of each cluster, how many records it has."""
    quota: Int[np.ndarray, " k"]
    """How many it gives, copies included."""
    seed: int
    nearest: bool
    """As of `dinojax.curation.sample_stage.SampleOptions`."""

    def __call__(self, table: pa.Table) -> pa.Table:
        table = table.sort_by("row")  # of equal keys the first row is taken
        copies = taken(
            table["parent"].to_numpy(),
            numbers_of(table["child"].to_pylist()),
            self.size,
            self.quota,
            seed=self.seed,
            distance=table["squared_distance"].to_numpy() if self.nearest else None,
        )
        columns = {name: table[name] for name in ("row", "parent", "label")}
        named = pa.table({"id": table["child"], **columns, "multiplicity": copies})
        return named.filter(pa.array(copies > 0))
