"""What stages do to tables more than once: joining columns, counting values."""

import functools
from collections.abc import Sequence

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
    at = place_in(found["row"].to_numpy(), rows["row"].to_numpy())
    values = found[column].combine_chunks().take(pa.array(at, mask=at < 0))
    place = rows.schema.get_field_index(column)
    return rows.set_column(place, table.schema.field(column), values)


def place_in(values: Int[np.ndarray, " n"], wanted: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """Where each of the `wanted`, from 0 on, stands among `values`, all different; -1: nowhere."""
    order = np.argsort(values)
    at = np.r_[order, -1][np.searchsorted(values[order], wanted)]
    return np.where(np.r_[values, -1][at] == wanted, at, -1)


def tally(
    tables: Tables, columns: Sequence[str], weight: str | None = None
) -> list[tuple[Int[np.ndarray, " v"], Int[np.ndarray, " v"]]]:
    """For each column of integers: (the values that it has, how many rows have each, or the sum of
    `weight` of these); nulls do not count."""
    found = tables.map(functools.partial(_tally, columns=columns, weight=weight)).all()
    parts = [found.filter(pc.field("column") == place) for place in range(len(columns))]
    return [_counts(part["value"].to_numpy(), part["count"].to_numpy()) for part in parts]


def _tally(table: pa.Table, columns: Sequence[str], weight: str | None) -> pa.Table:
    """Of one shard."""
    of = pa.array(np.ones(len(table), np.int64)) if weight is None else table[weight]
    found = []
    for place, name in enumerate(columns):
        known = table[name].is_valid()
        value, count = _counts(table[name].filter(known).to_numpy(), of.filter(known).to_numpy())
        column = np.full(len(value), place)
        found.append(pa.table({"column": column, "value": value, "count": count}))
    return pa.concat_tables(found)


def _counts(
    value: Int[np.ndarray, " n"], count: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " v"], Int[np.ndarray, " v"]]:
    values, place = np.unique(value, return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, place, count)
    return values.astype(np.int64), counts
