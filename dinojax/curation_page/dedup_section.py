"""What ``dedup`` took out, and why: groups of copies, and images like those of evaluations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dinojax.curation.dedup_stage import DedupOptions
from dinojax.curation.draws import draw_keys
from dinojax.curation.embeddings import RowsOptions, numbers_of
from dinojax.curation_page.features import cosine, rows_of, there
from dinojax.curation_page.options import PageOptions
from dinojax.curation_page.sections import Group, Sheet, charts, fact, images_words
from dinojax.curation_page.sizes import size_chart
from dinojax.curation_page.threshold_sheets import pool_sheets, reference_sheets
from dinojax.pictures import bars
from dinojax.pictures.thumbnails import Tile

STAYS, EVALUATION = "stays", "evaluation"
"""Marks of tiles."""


class Joined(NamedTuple):
    """Records that were taken out because of one, `center`."""

    center: str
    count: int
    shown: list[str]
    """Of them, the first by a draw."""


def dedup_section(
    folder: Path, report: dict[str, Any], options: PageOptions, dedup: DedupOptions
) -> list[str | Sheet]:
    """Of the finished stage in `folder`.

    Args:
        dedup: where its features are.

    Raises:
        ValueError: features that are not those that the stage has read.
    """
    table, inputs = pq.read_table(folder / "dedup.parquet"), report["inputs"]
    sizes = table["component"].value_counts().field("counts").to_numpy()
    removed = report["removed"]
    parts: list[str | Sheet] = [
        charts(
            bars.rows("Records", ["stay", *removed], [report["rows_out"], *removed.values()]),
            size_chart("Groups of copies, by their records", sizes[sizes > 1]),
        )
    ]
    rows = dedup.rows
    references = [RowsOptions(one, rows.feature) for one in dedup.references]
    has_rows = there([rows])
    has_references = has_rows and there(references)
    if not has_rows:
        parts.append(
            fact("dedup.rows.folder has no features in Parquet now: no cosines, no pairs.")
        )
    copies = _joined(table, "duplicate", "component", options)
    seen = _joined(table, "reference", "reference", options)
    ids = [id for one in copies for id in (one.center, *one.shown)]
    ids += [id for one in seen for id in one.shown]
    pool = rows_of([rows], ids, "dedup.rows") if has_rows else {}
    centers = [one.center for one in seen]
    known = rows_of(references, centers, "dedup.references") if has_references else {}
    parts += [
        _copies(copies, _kept(table, copies), pool),
        _seen(seen, pool, known, bool(options.references)),
    ]
    if has_rows:
        parts += pool_sheets(table, inputs, rows, options.groups)
    if has_references and options.references:
        parts += reference_sheets(table, inputs, rows, references, options.groups)
    return parts


def _joined(table: pa.Table, reason: str, column: str, options: PageOptions) -> list[Joined]:
    """What was taken out for a reason, by what `column` names: the most first."""
    rows = table.filter(pc.field("reason") == reason)
    counts = rows[column].value_counts()
    ranked = pa.table(counts.flatten(), ["center", "count"]).sort_by(
        [("count", "descending"), ("center", "ascending")]
    )
    found = []
    for one in ranked.slice(0, options.groups).to_pylist():
        ids = rows.filter(pc.field(column) == one["center"])["id"].to_pylist()
        order = np.argsort(draw_keys(numbers_of(ids), 0, "page"))[: options.tiles - 1]
        found.append(Joined(one["center"], one["count"], [ids[place] for place in order.tolist()]))
    return found


def _kept(table: pa.Table, groups: Sequence[Joined]) -> dict[str, str | None]:
    """Of the records that stand for these groups, the evaluation's image that they are like."""
    rows = table.filter(pc.field("id").isin([one.center for one in groups]))
    return dict(zip(rows["id"].to_pylist(), rows["reference"].to_pylist(), strict=True))


def _copies(
    groups: Sequence[Joined], like: Mapping[str, str | None], pool: Mapping[str, np.ndarray]
) -> Sheet:
    drawn = []
    for one in groups:
        reference = like[one.center]
        first = Tile(one.center, mark=STAYS)
        if reference is not None:
            first = Tile(one.center, f"out, too: like {reference}")
        others = _others(one, pool, pool)
        drawn.append(Group(images_words(1 + one.count, 1 + len(others)), [first, *others]))
    fact = (
        "The largest groups. Cosines are to the first image; one below the threshold is that of a "
        "copy of a copy."
    )
    return Sheet("Copies", fact, drawn)


def _seen(
    groups: Sequence[Joined],
    pool: Mapping[str, np.ndarray],
    known: Mapping[str, np.ndarray],
    pictured: bool,
) -> Sheet:
    drawn = []
    for one in groups:
        first = [Tile(one.center, of="references", mark=EVALUATION)] if pictured else []
        others = _others(one, known, pool)
        title = images_words(one.count, len(others))
        if not pictured:
            title += f" like {one.center}"
        elif one.count == 1:
            title = ""
        drawn.append(Group(title, [*first, *others]))
    fact = (
        "What was taken out because it hangs together with an image of an evaluation, perhaps "
        "through others. Cosines are to that image."
    )
    return Sheet("Like images of evaluations", fact, drawn)


def _others(
    one: Joined, centers: Mapping[str, np.ndarray], pool: Mapping[str, np.ndarray]
) -> list[Tile]:
    """The least similar first: those to be doubted."""
    cosines = {id: cosine(centers, one.center, pool, id) for id in one.shown}
    known = {id: value for id, value in cosines.items() if value is not None}
    order = sorted(one.shown, key=lambda id: (known.get(id, 1.0), id))
    return [Tile(id, f"cosine {known[id]:.3f}" if id in known else "") for id in order]
