"""Near-duplicates on tables of any size: groups of copies, and what hangs together with references.

``rows.parquet`` lists the images by number: ``id`` and ``pixels``, first those of the pool, then
those of evaluations. Pairs are of these numbers (`dinojax.curation.pairs`).
"""

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dinojax.curation.duplicates import holding, representatives
from dinojax.curation.joins import join, place_in
from dinojax.curation.runners import Tables
from dinojax.curation.stars import least_of_each, linked
from dinojax.curation.tables import fitted

ROWS = pa.schema([("id", pa.large_string()), ("pixels", pa.int64())])
LINKED = pa.schema([("row", pa.int64()), ("component", pa.int64()), *ROWS])
GROUPS = pa.schema(
    [
        ("id", pa.large_string()),
        ("component", pa.large_string()),
        ("stays", pa.bool_()),
        ("size", pa.int64()),
    ]
)
VERDICT = pa.schema(
    [
        ("id", pa.large_string()),
        ("component", pa.large_string()),
        ("reference", pa.large_string()),
        ("kept", pa.bool_()),
        ("reason", pa.large_string()),
    ]
)


def groups(rows: Tables, pairs: Tables | None, pool: int) -> Tables:
    """(``row``, `GROUPS`) of the first `pool` rows: the id that stays of the group of each, whether
    this is its own, and how many there are.

    Args:
        rows: with `ROWS`.
        pairs: ``one`` and ``other``. None: there are none; Ray stumbles over tables without rows.
    """
    listed = rows.map(functools.partial(_first, count=pool))
    return _with_components(listed, pairs).by_key("component", _one_stays)


def references(rows: Tables, pairs: Tables, pool: int) -> Tables:
    """(``row``, ``reference``) of those of the first `pool` rows that hang together with others:
    the id of the first of these. Arguments as of `groups`."""
    given = functools.partial(_first_reference, pool=pool)
    return _with_components(rows, pairs).by_key("component", given)


def verdicts(groups: Tables, references: Tables | None) -> Tables:
    """(``row``, `VERDICT`): who is kept, and why others are not."""
    if references is not None:
        schema = pa.schema([("row", pa.int64()), *GROUPS, ("reference", pa.large_string())])
        groups = join(groups, "reference", references, schema)
    return groups.map(_verdict)


def _with_components(rows: Tables, pairs: Tables | None) -> Tables:
    if pairs is None:
        return rows.map(functools.partial(fitted, schema=LINKED)).map(_alone)
    return join(rows, "component", linked(pairs), LINKED).map(_alone)


def _first(table: pa.Table, count: int) -> pa.Table:
    return table.filter(pc.field("row") < count)


def _alone(table: pa.Table) -> pa.Table:
    """The first of a component, and what hangs together with nothing."""
    found = table["component"].fill_null(-1).to_numpy()
    own = pa.array(np.where(found < 0, table["row"].to_numpy(), found))
    return table.set_column(table.schema.get_field_index("component"), "component", own)


def _one_stays(table: pa.Table) -> pa.Table:
    group = np.unique(table["component"].to_numpy(), return_inverse=True)[1]
    place = np.arange(len(group))
    ordered = pa.table({"id": table["id"], "place": place}).sort_by("id")
    rank = np.empty(len(group), np.int64)
    rank[ordered["place"].to_numpy()] = place
    stays = representatives(group, table["pixels"].to_numpy(), rank)
    chosen = np.empty(group.max(initial=-1) + 1, np.int64)
    chosen[group[stays]] = np.flatnonzero(stays)
    return pa.table(
        {
            "row": table["row"],
            "id": table["id"],
            "component": table["id"].take(pa.array(chosen[group])),
            "stays": stays,
            "size": np.bincount(group)[group],
        }
    )


def _first_reference(table: pa.Table, pool: int) -> pa.Table:
    group = np.unique(table["component"].to_numpy(), return_inverse=True)[1]
    row = table["row"].to_numpy()
    of_pool = row < pool
    first = least_of_each(group, np.where(of_pool, np.iinfo(np.int64).max, row))
    near = np.flatnonzero(of_pool & holding(group, ~of_pool))
    ids = table["id"].take(pa.array(place_in(row, first[near])))
    return pa.table({"row": row[near], "reference": ids})


def _verdict(table: pa.Table) -> pa.Table:
    reference = fitted(table, VERDICT)["reference"]
    stays = table["stays"].to_numpy()
    kept = stays & reference.is_null().to_numpy()
    reason = pa.array(np.where(stays, "reference", "duplicate"), pa.large_string(), mask=kept)
    columns = {name: table[name] for name in ("row", "id", "component")}
    return pa.table(columns | {"reference": reference, "kept": kept, "reason": reason})
