"""The stage ``dedup``: one of each group of copies stays, and nothing like an evaluation's images.

``dedup.parquet`` has a row per record: ``id``; ``component``, the id that stays of its group of
copies (of most pixels, where the features tell); ``reference``, the id of an evaluation's image
that it hangs together with (none: null); ``kept``; and ``reason``, "duplicate" or "reference" where
it is not. ``kept.parquet`` lists the ids that stay, as ``cluster.rows.ids`` takes them.

The search leaves what it found (`dinojax.curation.pairs`): ``pairs.parquet``, and against
references ``reference_pairs.parquet``. Their numbers are of ``rows.parquet``, which begins with the
rows of ``dedup.parquet``. All that follows is done by a runner, from these tables.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging
from jaxtyping import Float

from dinojax.curation.copies import GROUPS, ROWS, VERDICT, groups, references, verdicts
from dinojax.curation.duplicates import ALARM_SHARE, Pairs
from dinojax.curation.embeddings import Embeddings, RowsOptions, read_embeddings
from dinojax.curation.joins import tally
from dinojax.curation.pairs import count_full, full_lists, similar_pairs, write_pairs
from dinojax.curation.progress_bar import progress_bar, tracked
from dinojax.curation.runners import Runner, RunnerOptions, Tables, make_runner
from dinojax.curation.search import Search, by_mesh, gathered, search_by
from dinojax.curation.stage_folder import claim, finish
from dinojax.curation.tables import write_parts
from dinojax.runtime.fingerprints import hash_bytes


@dataclass(frozen=True)
class DedupOptions:
    """Copy detection (`dinojax.curation.duplicates`); the thresholds are those of
    arXiv:2304.07193, for its copy detector: other encoders need others."""

    rows: RowsOptions = RowsOptions()
    references: tuple[str, ...] = ()
    """Folders as rows.folder, of the training and test images of evaluations."""
    threshold: float = 0.6
    """Records of a larger cosine are joined."""
    reference_threshold: float = 0.45
    """With references; lower, so that more is removed."""
    neighbours: int = 64
    """That are looked at of each record, itself included."""
    index: str | None = None
    """Of FAISS, as "IVF4096,Flat". None: exact, on all devices."""


def dedup_stage(
    options: DedupOptions, seed: int, folder: Path, by: RunnerOptions = RunnerOptions()
) -> dict[str, Any]:
    """The report.

    Args:
        seed: of the rows that an index of FAISS learns from.
        by: what joins and groups the tables.

    Raises:
        ValueError or FileNotFoundError: options or rows that do not fit, or a folder of others.
    """
    _check(options)
    search, runner, start = search_by(options.index, seed), make_runner(by), time.perf_counter()
    pool, others = _read(options)
    names = ("threshold", "reference_threshold", "neighbours", "index")
    inputs = {"seed": seed, "rows": pool.fingerprint, "pixels": hash_bytes(pool.pixels.tobytes())}
    inputs |= {"references": [part.fingerprint for part in others]}
    report = claim(folder, inputs | {name: getattr(options, name) for name in names})
    if report is not None:
        return report
    stage = _Stage(options, search, folder, pool, others)
    with runner:
        stage.search_pool()
        with progress_bar("dedup: tables", 3, "tables") as bar:
            stage.group(runner)
            (sizes,) = tally(runner.read(stage.path("groups"), ["size"]), ["size"])
            bar.update()
            stage.judge(runner)
            bar.update()
            removed, components = stage.list_kept(), _components(*sizes)
            bar.update()
    full = stage.full_lists()
    _warn(components, full, options.neighbours)
    found = {
        "rows_in": len(pool.ids),
        "rows_out": len(pool.ids) - sum(removed.values()),
        "removed": removed,
        "components": components,
        "full_lists": full,
    }
    stage.path("groups").unlink()
    seconds = {"seconds": {"all": time.perf_counter() - start}}
    # Pairs are no outputs: the last bits of similarities depend on how devices share the search.
    return finish(folder, found | seconds, [stage.path("dedup"), stage.path("kept")])


@dataclass(frozen=True)
class _Stage:
    """Each step leaves a table, and is not done again where this is whole."""

    options: DedupOptions
    search: Search
    folder: Path
    pool: Embeddings
    others: list[Embeddings]

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"

    def pairs(self, runner: Runner, name: str) -> Tables | None:
        """None: there are none."""
        some = pq.read_metadata(self.path(name)).num_rows > 0
        return runner.read(self.path(name), ["one", "other"]) if some else None

    def search_pool(self) -> None:
        if self.path("pairs").exists():
            return
        parts = self.pool, *self.others
        ids = [id for part in parts for id in part.ids]
        # Where features do not say how large the images were, the smallest id stays.
        pixels = np.concatenate([part.pixels for part in parts])
        table = pa.table([pa.array(ids, pa.large_string()), pixels], schema=ROWS)
        write_parts(self.path("rows"), ROWS, [table])
        pairs, full = self._searched(self.pool.rows, self.options.threshold)
        write_pairs(self.path("pairs"), pairs, full)

    def group(self, runner: Runner) -> None:
        if self.path("groups").exists():
            return
        rows = runner.read(self.path("rows"), ROWS.names)
        found = groups(rows, self.pairs(runner, "pairs"), len(self.pool.ids))
        write_parts(self.path("groups"), GROUPS, found.sorted("row"))

    def judge(self, runner: Runner) -> None:
        if self.path("dedup").exists():
            return
        near = None
        if self.others:
            if not self.path("reference_pairs").exists():
                self._search_references()
            rows = runner.read(self.path("rows"), ROWS.names)
            pairs = self.pairs(runner, "reference_pairs")
            near = None if pairs is None else references(rows, pairs, len(self.pool.ids))
        found = verdicts(runner.read(self.path("groups"), GROUPS.names), near)
        write_parts(self.path("dedup"), VERDICT, found.sorted("row"))

    def _search_references(self) -> None:
        """Of what stays, and of references with each other: copies of copies count.

        Lists of neighbours may fill with one side alone, those of a row with other rows of the pool
        and those of a reference with references. So each row that stays also meets its nearest
        reference, exactly, whatever the index: none above the threshold is overlooked.
        """
        stays = pq.read_table(self.path("groups"), columns=["stays"])["stays"].to_numpy()
        threshold = self.options.reference_threshold
        known, own = np.concatenate([part.rows for part in self.others]), self.pool.rows[stays]
        number = np.concatenate([len(stays) + np.arange(len(known)), np.flatnonzero(stays)])
        among, full = self._searched(np.concatenate([known, own]), threshold)
        nearest = gathered(by_mesh(known, own, 1))
        direct = np.asarray(nearest.similarity)[:, 0] > threshold
        pairs = Pairs(
            np.r_[number[among.one], np.flatnonzero(stays)[direct]],
            np.r_[number[among.other], len(stays) + np.asarray(nearest.index)[direct, 0]],
            np.r_[among.similarity, np.asarray(nearest.similarity)[direct, 0]],
        )
        write_pairs(self.path("reference_pairs"), pairs, full)

    def _searched(self, rows: Float[np.ndarray, "n D"], threshold: float) -> tuple[Pairs, int]:
        """(pairs, how many lists are full)"""
        parts = self.search(rows, rows, self.options.neighbours)
        with progress_bar("dedup: search", len(rows), "records") as bar:
            found = gathered(tracked(parts, bar, lambda part: len(part.index)))
        return similar_pairs(found, threshold), count_full(found, threshold, len(rows))

    def full_lists(self) -> dict[str, int]:
        """Lists of neighbours that end above the threshold, by search."""
        names = ["pairs", "reference_pairs"][: 1 + bool(self.others)]
        return {name: full_lists(self.path(name)) for name in names}

    def list_kept(self) -> dict[str, int]:
        """How many are not kept, by reason."""
        removed = {"duplicate": 0, "reference": 0}

        def parts() -> Iterator[pa.Table]:
            with pq.ParquetFile(self.path("dedup")) as file:
                for batch in file.iter_batches(columns=["id", "kept", "reason"]):
                    reasons = batch["reason"].to_pylist()
                    for name in removed:
                        removed[name] += reasons.count(name)
                    yield pa.table([batch["id"].filter(batch["kept"])], ["id"])

        write_parts(self.path("kept"), pa.schema([("id", pa.large_string())]), parts())
        return removed


def _read(options: DedupOptions) -> tuple[Embeddings, list[Embeddings]]:
    """(pool, references)"""
    pool, references = read_embeddings(options.rows, "dedup.rows"), []
    for number, folder in enumerate(options.references):
        given = RowsOptions(folder, options.rows.feature)
        part = read_embeddings(given, f"dedup.references[{number}]")
        if part.rows.shape[1] != pool.rows.shape[1]:
            raise ValueError(
                f"dedup.references: {folder} has {given.feature} of width {part.rows.shape[1]} and "
                f"the pool of {pool.rows.shape[1]}; embed both alike"
            )
        references.append(part)
    return pool, references


def _check(options: DedupOptions) -> None:
    for name in ("threshold", "reference_threshold"):
        if not -1 <= getattr(options, name) < 1:
            raise ValueError(f"dedup.{name}={getattr(options, name)} must lie in -1..1; use 0.6")
    if options.neighbours < 2:
        raise ValueError(f"dedup.neighbours={options.neighbours} must be at least 2; use 64")


def _components(size: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """Of groups of copies, from how many rows are in groups of each size."""
    largest = int(size.max(initial=0))
    return {
        "alone": int(rows[size == 1].sum()),
        "groups": int((rows // size)[size > 1].sum()),
        "largest": largest,
        "largest_share": largest / max(int(rows.sum()), 1),
    }


def _warn(components: dict[str, Any], full: dict[str, int], neighbours: int) -> None:
    largest, share = components["largest"], components["largest_share"]
    if share > ALARM_SHARE and largest > neighbours:
        text = "dedup: %d records, %.1f %% of all, hang together: raise dedup.threshold=..."
        logging.warning(text, largest, 100 * share)
    for name, count in full.items():
        if count:
            text = "dedup: %d records of %s.parquet have all %d neighbours above the threshold, and"
            text += " perhaps more: raise dedup.neighbours, or the threshold"
            logging.warning(text, count, name, neighbours)
