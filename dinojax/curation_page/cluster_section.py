"""What ``cluster`` found: how large clusters are, and what is in the smallest, the largest and some
random ones of each level."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int

from dinojax.curation.balance import flat_sizes
from dinojax.curation.draws import draw_keys, rank_within
from dinojax.curation.tree import Tree, read_tree, tree_path
from dinojax.curation_page.options import PageOptions
from dinojax.curation_page.sections import Group, Sheet, charts, images_words
from dinojax.curation_page.sizes import size_chart
from dinojax.pictures.page import table
from dinojax.pictures.thumbnails import Tile

QUANTILES = (0.1, 0.5, 0.9)


def cluster_section(
    folder: Path, report: dict[str, Any], options: PageOptions, names: Sequence[str]
) -> list[str | Sheet]:
    """Of the finished stage in `folder`.

    Args:
        names: of classes; those that are not there are numbers.
    """
    tree = read_tree(folder, len(report["levels"]))
    sizes = flat_sizes(tree.parents)
    drawn = [
        size_chart(f"Clusters of level {level} by their records", one)
        for level, one in enumerate(sizes, 1)
    ]
    parts: list[str | Sheet] = [_table(report["levels"], sizes), charts(*drawn)]
    rank, group = rank_within(tree.parents[0], tree.distance), np.arange(len(tree.ids))
    for level, parent in enumerate(tree.parents, 1):
        child_distance = pq.read_table(tree_path(folder, level))["squared_distance"].to_numpy()
        # Level by level the most typical first: of each cluster below its most typical image.
        order = np.lexsort((tree.distance, child_distance[group], rank))
        group = parent[group]
        for title, chosen in _chosen(sizes[level - 1], options.clusters):
            shown = [
                _group(tree, names, order[group[order] == one], one, options.tiles)
                for one in chosen
            ]
            fact = "Nearest to the centre first."
            if level > 1:
                fact = "First the image in the middle of each cluster below, the nearest first."
            parts.append(Sheet(f"Level {level}: {title}", fact, shown))
    return parts


def _table(levels: Sequence[dict[str, Any]], sizes: Sequence[Int[np.ndarray, "_"]]) -> str:
    head = ("level", "clusters", "empty", "least", "10 %", "median", "90 %", "most", "effective")
    rows = []
    for number, (level, size) in enumerate(zip(levels, sizes, strict=True), 1):
        low, middle, high = (f"{value:g}" for value in np.quantile(size, QUANTILES))
        most = level["records"]
        ends = (str(most["least"]), low, middle, high, str(most["most"]))
        counts = (str(number), str(level["clusters"]), str(level["empty"]))
        rows.append((*counts, *ends, f"{level['evenness']['effective']:.1f}"))
    return table(head, rows, numbers=range(1, len(head)))


def _chosen(sizes: Int[np.ndarray, " K"], count: int) -> list[tuple[str, list[int]]]:
    """Clusters that have records, each in one list alone."""
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0].tolist()
    largest, rest = order[:count], order[count:]
    cut = max(len(rest) - count, 0)
    rest, smallest = rest[:cut], rest[cut:]
    keys = draw_keys(np.asarray(rest, np.int64), 0, "page")
    random = [rest[place] for place in np.argsort(keys)[:count]]
    return [("the largest", largest), ("the smallest", smallest[::-1]), ("some others", random)]


def _group(
    tree: Tree, names: Sequence[str], members: Int[np.ndarray, " m"], cluster: int, tiles: int
) -> Group:
    title = f"cluster {cluster}: {images_words(len(members))}"
    labels = tree.labels[members]
    if (labels >= 0).any():
        counts = np.bincount(labels[labels >= 0])
        label = int(counts.argmax())
        name = names[label] if label < len(names) else str(label)
        title += f", {counts[label]:,} of class {name}"
    return Group(title, [Tile(tree.ids[place]) for place in members[:tiles]])
