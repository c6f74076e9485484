"""The stage ``sample``: a tree of clusters to a balanced list of ids, for training.

``selection.parquet`` has ``id`` and ``multiplicity``: what ``data.ids`` and the source
``ids:FILE:SPEC`` read.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from dinojax.curation.balance import quotas, sums_above
from dinojax.curation.choice import Choice
from dinojax.curation.evenness import evenness
from dinojax.curation.joins import tally
from dinojax.curation.progress_bar import progress_bar
from dinojax.curation.runners import RunnerOptions, Tables, make_runner
from dinojax.curation.stage_folder import SELECTION, claim, finish, read_report
from dinojax.curation.tables import write_parts
from dinojax.curation.tree import tree_path

SCHEMA = pa.schema([("id", pa.large_string()), ("multiplicity", pa.int64())])


@dataclass(frozen=True)
class SampleOptions:
    """Hierarchical balanced sampling (`dinojax.curation.balance`)."""

    target: int | None = None
    """Records wanted, copies included; all, where there are fewer."""
    multiplicity: int = 1
    """Copies that may be taken of one."""
    nearest: bool = False
    """Of a cluster take those nearest to its centre, not random ones."""


def sample_stage(
    options: SampleOptions,
    seed: int,
    folder: Path,
    clusters: Path,
    by: RunnerOptions = RunnerOptions(),
) -> dict[str, Any]:
    """The report.

    Args:
        clusters: the folder of the stage ``cluster``.
        by: what reads and groups the records; the clusters above them are kept in memory.

    Raises:
        ValueError or FileNotFoundError: options outside their range, a tree that is not finished,
            or a folder of other inputs.
    """
    start = time.perf_counter()
    if options.target is None or options.target < 1:
        raise ValueError(f"sample.target={options.target} must be at least 1; use 1000")
    if options.multiplicity < 1:
        raise ValueError(f"sample.multiplicity={options.multiplicity} must be at least 1; use 1")
    runner, tree_report = make_runner(by), read_report(clusters)
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
    levels = range(2, len(tree_report["levels"]) + 1)
    above = [pq.read_table(tree_path(clusters, n))["parent"].to_numpy() for n in levels]
    with runner, progress_bar("sample", 4, "steps") as bar:
        names = ["child", "parent", "squared_distance", "label"]
        rows = runner.read(tree_path(clusters, 1), names)
        before = _Sums.of(rows, above, None)
        bar.update()
        quota = quotas(
            before.levels, above, options.target, seed=seed, multiplicity=options.multiplicity
        )
        choice = Choice(before.levels[0], quota, seed, options.nearest)
        chosen = rows.by_key("parent", choice).held()
        bar.update()
        after = _Sums.of(chosen, above, "multiplicity", before)
        bar.update()
        path = folder / SELECTION
        write_parts(path, SCHEMA, chosen.sorted("row"))
        bar.update()
    with pq.ParquetFile(path) as file:
        count = file.metadata.num_rows
    return finish(
        folder,
        {
            "rows_in": int(before.levels[0].sum()),
            "rows_out": count,
            "copies_out": int(after.levels[0].sum()),
            "balance": _balance(before, after),
            "seconds": {"all": time.perf_counter() - start},
        },
        [path],
    )


@dataclass(frozen=True)
class _Sums:
    """Records, or copies of them, per group."""

    levels: list[Int[np.ndarray, "_"]]
    """Of each level's clusters."""
    classes: Int[np.ndarray, " c"]
    """Of the labels from 0 on."""

    @classmethod
    def of(
        cls,
        rows: Tables,
        above: Sequence[np.ndarray],
        weight: str | None,
        like: "_Sums | None" = None,
    ) -> "_Sums":
        """Of each record the number `weight`, None: 1; of the groups that `like` has."""
        clusters = len(above[0]) if above else 0
        least = (clusters, 0) if like is None else (len(like.levels[0]), len(like.classes))
        found = tally(rows, ["parent", "label"], weight)
        finest, classes = (_dense(*one, count) for one, count in zip(found, least, strict=True))
        return cls(sums_above(finest, above), classes)


def _dense(values: np.ndarray, counts: np.ndarray, least: int) -> Int[np.ndarray, " n"]:
    """Counts of all values from 0 on, `least` of them or more."""
    found = np.zeros(max(least, values.max(initial=-1) + 1), np.int64)
    found[values] = counts
    return found


def _balance(before: _Sums, after: _Sums) -> dict[str, Any]:
    """How even each level's clusters, and the classes where there are any, were and are. A group of
    which nothing is left still counts: it is not even to keep two of ten alike."""
    numbered = enumerate(zip(before.levels, after.levels, strict=True), 1)
    groups = {f"level_{number}": both for number, both in numbered}
    if len(before.classes):
        groups["classes"] = before.classes, after.classes
    found = {}
    for name, (old, new) in groups.items():
        was = evenness(old)
        now = evenness(new, was.groups)
        found[name] = {"before": was._asdict(), "after": now._asdict()}
    return found
