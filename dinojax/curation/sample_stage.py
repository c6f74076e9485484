"""The stage ``sample``: a tree of clusters to a balanced list of ids, for training.

``selection.parquet`` has ``id`` and ``multiplicity``: what ``data.ids`` and the source
``ids:FILE:SPEC`` read.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinojax.curation.balance import balanced_sample
from dinojax.curation.embeddings import numbers_of
from dinojax.curation.evenness import evenness
from dinojax.curation.stage_folder import claim, finish, read_report
from dinojax.curation.tables import write_table
from dinojax.curation.tree import Tree, read_tree

SELECTION = "selection.parquet"


@dataclass(frozen=True)
class SampleOptions:
    """Hierarchical balanced sampling (`dinojax.curation.balance`)."""

    target: int | None = None
    """Records wanted, copies included; all, where there are fewer."""
    multiplicity: int = 1
    """Copies that may be taken of one."""
    nearest: bool = False
    """Of a cluster take those nearest to its centre, not random ones."""


def sample_stage(options: SampleOptions, seed: int, folder: Path, clusters: Path) -> dict[str, Any]:
    """The report.

    Args:
        clusters: the folder of the stage ``cluster``.

    Raises:
        ValueError or FileNotFoundError: options outside their range, a tree that is not finished,
            or a folder of other inputs.
    """
    start = time.perf_counter()
    if options.target is None or options.target < 1:
        raise ValueError(f"sample.target={options.target} must be at least 1; use 1000")
    if options.multiplicity < 1:
        raise ValueError(f"sample.multiplicity={options.multiplicity} must be at least 1; use 1")
    tree_report = read_report(clusters)
    inputs = {
        "seed": seed,
        "tree": tree_report["fingerprint"],
        "target": options.target,
        "multiplicity": options.multiplicity,
        "nearest": options.nearest,
    }
    report = claim(folder, inputs)
    if report is not None:
        return report
    tree = read_tree(clusters, len(tree_report["levels"]))
    copies = balanced_sample(
        tree.parents,
        numbers_of(tree.ids),
        options.target,
        seed=seed,
        multiplicity=options.multiplicity,
        distance=tree.distance if options.nearest else None,
    )
    chosen = np.flatnonzero(copies)
    path = folder / SELECTION
    ids = [tree.ids[place] for place in chosen]
    write_table(path, {"id": ids, "multiplicity": copies[chosen]})
    return finish(
        folder,
        {
            "rows_in": len(copies),
            "rows_out": len(chosen),
            "copies_out": int(copies.sum()),
            "balance": _balance(tree, copies),
            "seconds": {"all": time.perf_counter() - start},
        },
        [path],
    )


def _balance(tree: Tree, copies: np.ndarray) -> dict[str, Any]:
    """How even each level's clusters, and the classes where there are any, were and are."""
    groups, group = {}, np.arange(len(copies))
    for number, parent in enumerate(tree.parents, 1):
        group = parent[group]
        groups[f"level_{number}"] = group, np.ones(len(copies), bool)
    known = tree.labels >= 0
    if known.any():
        groups["classes"] = tree.labels, known
    return {
        name: {
            "before": evenness(np.bincount(group[of]))._asdict(),
            "after": evenness(np.bincount(group[of], copies[of]).astype(np.int64))._asdict(),
        }
        for name, (group, of) in groups.items()
    }
