"""What stages do to tables more than once: joining columns, counting values."""

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from dinojax.curation.runners import Tables
from dinojax.curation.tables import fitted


def join(rows: Tables, column: str, found: Tables, schema: pa.Schema) -> Tables:
    """`rows` with one more column, which `found` has for some of them, by ``row``; null: it has
    none.

    Args:
        schema: of the outcome; its column ``id`` is in `rows` alone, and never null.
    """
    fit = functools.partial(fitted, schema=schema)
    return rows.map(fit).by_key("row", functools.partial(_join, column=column), found.map(fit))


def _join(table: pa.Table, column: str) -> pa.Table:
    rows, found = table.filter(table["id"].is_valid()), table.filter(table["id"].is_null())
    at = pc.index_in(rows["row"], value_set=found["row"].combine_chunks())
    return rows.set_column(
        rows.schema.get_field_index(column),
        table.schema.field(column),
        found[column].combine_chunks().take(at),
    )


def tally(
    tables: Tables, column: str, weight: str | None = None
) -> tuple[Int[np.ndarray, " v"], Int[np.ndarray, " v"]]:
    """(each value that integers in `column` have, how many rows have it, or the sum of `weight` of
    these); nulls do not count."""
    found = tables.map(_Tally(column, weight)).all()
    values, place = np.unique(found["value"].to_numpy(), return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, place, found["count"].to_numpy())
    return values, counts


@dataclass(frozen=True)
class _Tally:
    """Of one shard."""

    column: str
    weight: str | None

    def __call__(self, table: pa.Table) -> pa.Table:
        table = table.filter(table[self.column].is_valid())
        of = np.ones(len(table), np.int64) if self.weight is None else table[self.weight].to_numpy()
        values, place = np.unique(table[self.column].to_numpy(), return_inverse=True)
        counts = np.zeros(len(values), np.int64)
        np.add.at(counts, place, of)
        return pa.table({"value": values.astype(np.int64), "count": counts})
