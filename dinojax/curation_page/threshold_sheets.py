"""Pairs on both sides of the thresholds of ``dedup``: what to look at to choose them.

They are sought among a part of large pools, so that the page takes seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from dinojax.curation.draws import draw_keys
from dinojax.curation.embeddings import RowsOptions, numbers_of
from dinojax.curation.search import by_mesh, gathered
from dinojax.curation_page.features import Features, some_rows
from dinojax.curation_page.pairs import Pair, nearest_pairs
from dinojax.curation_page.sections import Group, Sheet
from dinojax.evaluation.nearest import Neighbours
from dinojax.pictures.thumbnails import Tile

LOOKED_AT, QUERIES = 2**17, 2**12
"""Records of the pool, and of each set of references, among which pairs are sought, and how many of
them ask for their neighbours."""


class Fate(NamedTuple):
    """Columns of ``dedup.parquet``."""

    component: str
    kept: bool


def pool_sheets(
    table: pa.Table, inputs: Mapping[str, Any], rows: RowsOptions, count: int
) -> list[Sheet]:
    """Two: joined for the threshold, and almost.

    Args:
        table: ``dedup.parquet``.
        inputs: of the stage.
        count: pairs of each sheet at most.
    """
    part, fates = _part(table, rows)
    queries = _queries(part.ids)
    found = gathered(by_mesh(part.rows, part.rows[queries], inputs["neighbours"]))
    _, joined = np.unique([fate.component for fate in fates], return_inverse=True)
    threshold = inputs["threshold"]
    above, below = nearest_pairs(found, queries, joined, threshold, count)
    looked = f"Of {len(queries):,} records and their neighbours among {len(part.ids):,}."
    return [
        _sheet(f"Just above the threshold of {threshold:g}: joined", looked, above, part.ids),
        _sheet(f"Just below the threshold of {threshold:g}: not joined", looked, below, part.ids),
    ]


def reference_sheets(
    table: pa.Table,
    inputs: Mapping[str, Any],
    rows: RowsOptions,
    references: Sequence[RowsOptions],
    count: int,
) -> list[Sheet]:
    """Two as `pool_sheets`, of records with images of evaluations.

    Records that are copies of others are left out, as ``dedup`` does.
    """
    single = table.filter((pc.field("reason") != "duplicate") | pc.field("reason").is_null())
    part, fates = _part(single, rows)
    known = some_rows(references, LOOKED_AT, "dedup.references")
    size, queries = len(part.ids), _queries(part.ids)
    near = gathered(by_mesh(known.rows, part.rows[queries], inputs["neighbours"]))
    found = Neighbours(near.similarity, np.asarray(near.index) + size)
    # What has gone is joined to the references; each that stays is on its own.
    stays = np.array([fate.kept for fate in fates])
    joined = np.r_[np.where(stays, np.arange(size), size), np.full(len(known.ids), size)]
    threshold = inputs["reference_threshold"]
    above, below = nearest_pairs(found, queries, joined, threshold, count)
    looked = f"Of {len(queries):,} records and the evaluations' images next to them."
    names = [*part.ids, *known.ids]
    return [
        _sheet(f"{side} the threshold of {threshold:g}: {what}", looked, pairs, names, size)
        for side, what, pairs in (
            ("Like an evaluation's image, just above", "taken out", above),
            ("Like an evaluation's image, just below", "left in", below),
        )
    ]


def _part(table: pa.Table, rows: RowsOptions) -> tuple[Features, list[Fate]]:
    """Features of some rows of the table, and what became of these."""
    part = some_rows([rows], LOOKED_AT, "dedup.rows")
    some = table.filter(pc.field("id").isin(part.ids))
    columns = (some[name].to_pylist() for name in ("id", *Fate._fields))
    fates = {id: Fate(*fate) for id, *fate in zip(*columns, strict=True)}
    here = [place for place, id in enumerate(part.ids) if id in fates]
    ids = [part.ids[place] for place in here]
    return Features(ids, part.rows[here]), [fates[id] for id in ids]


def _queries(ids: Sequence[str]) -> Int[np.ndarray, " m"]:
    return np.sort(np.argsort(draw_keys(numbers_of(ids), 0, "page"))[:QUERIES])


def _sheet(
    title: str, fact: str, pairs: Sequence[Pair], names: Sequence[str], pool: int | None = None
) -> Sheet:
    """Records from number `pool` on are references."""

    def tile(number: int) -> Tile:
        return Tile(names[number], of="pool" if pool is None or number < pool else "references")

    groups = [Group(f"cosine {p.cosine:.4f}", [tile(p.one), tile(p.other)]) for p in pairs]
    return Sheet(title, fact, groups)
