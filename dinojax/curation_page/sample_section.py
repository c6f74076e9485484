"""What ``sample`` took: how even it is, what is in it and what is not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int

from dinojax.curation.draws import draw_keys
from dinojax.curation.embeddings import numbers_of
from dinojax.curation.stage_folder import SELECTION, read_report
from dinojax.curation.tree import Tree, read_tree
from dinojax.curation_page.options import PageOptions
from dinojax.curation_page.sections import Group, Sheet, charts, fact, times_words
from dinojax.curation_page.sizes import share_chart
from dinojax.pictures.page import table
from dinojax.pictures.thumbnails import Tile


def sample_section(
    folder: Path, report: dict[str, Any], options: PageOptions, names: Sequence[str], clusters: Path
) -> list[str | Sheet]:
    """Of the finished stage in `folder`.

    Args:
        names: of classes; those that are not there are numbers.
        clusters: the folder of the stage ``cluster``.

    Raises:
        FileNotFoundError or ValueError: the tree is not there, or is another one.
    """
    above = read_report(clusters)
    if above["fingerprint"] != report["inputs"]["tree"]:
        raise ValueError(f"{folder} is of another tree than {clusters}; delete it and do it anew")
    tree = read_tree(clusters, len(above["levels"]))
    copies = _copies(folder, tree)
    return [
        _table(report["balance"]),
        charts(*_charts(tree, copies, names)),
        _sheet("Taken", tree, np.flatnonzero(copies), copies, options.images),
        _sheet("Left out", tree, np.flatnonzero(copies == 0), copies, options.images),
    ]


def _copies(folder: Path, tree: Tree) -> Int[np.ndarray, " n"]:
    """How often each record of the tree is taken."""
    selection = pq.read_table(folder / SELECTION)
    columns = selection["id"].to_pylist(), selection["multiplicity"].to_pylist()
    taken = dict(zip(*columns, strict=True))
    return np.array([taken.get(id, 0) for id in tree.ids], np.int64)


def _table(balance: dict[str, Any]) -> str:
    rows = [
        (
            name.replace("_", " "),
            _change(one, "groups", ""),
            _change(one, "effective", ".1f"),
            _change(one, "divergence", ".3f"),
        )
        for name, one in balance.items()
    ]
    return table(("", "groups", "effective", "divergence"), rows, numbers=(1, 2, 3)) + fact(
        "Before and after. Effective: so many groups of one size would be spread alike. "
        "Divergence: from all groups that were there before, of one size, in nats; 0 is even."
    )


def _change(one: dict[str, Any], key: str, kind: str) -> str:
    before, after = (f"{one[when][key]:{kind}}" for when in ("before", "after"))
    return f"{before} \N{RIGHTWARDS ARROW} {after}"


def _charts(tree: Tree, copies: np.ndarray, names: Sequence[str]) -> list[str]:
    drawn, group = [], np.arange(len(copies))
    for level, parent in enumerate(tree.parents, 1):
        group = parent[group]
        drawn.append(_chart(f"Share of each cluster of level {level}", group, copies, ()))
    known = tree.labels >= 0
    if known.any():
        label = tree.labels[known]
        names = [
            names[number] if number < len(names) else str(number)
            for number in range(int(label.max()) + 1)
        ]
        drawn.append(_chart("Classes", label, copies[known], names))
    return drawn


def _chart(title: str, group: np.ndarray, copies: np.ndarray, names: Sequence[str]) -> str:
    after = np.bincount(group, copies).astype(np.int64)
    return share_chart(title, np.bincount(group), after, names)


def _sheet(
    title: str, tree: Tree, places: Int[np.ndarray, " m"], copies: np.ndarray, images: int
) -> Sheet:
    ids = [tree.ids[place] for place in places.tolist()]
    order = np.argsort(draw_keys(numbers_of(ids), 0, "page"))[:images]
    times = copies[places[order]].tolist()
    tiles = [Tile(ids[i], times_words(n)) for i, n in zip(order.tolist(), times, strict=True)]
    return Sheet(
        title, f"{len(tiles):,} of {len(ids):,}, by a draw.", [Group("", tiles)] if tiles else []
    )
