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
from jaxtyping import Int

from dinojax.curation.copies import GROUPS, ROWS, VERDICT, groups, references, verdicts
from dinojax.curation.duplicates import ALARM_SHARE, Pairs
from dinojax.curation.embeddings import RowsOptions
from dinojax.curation.joins import tally
from dinojax.curation.pairs import found_pairs, full_lists, write_pairs
from dinojax.curation.parts import Joined, Picked, Rows
from dinojax.curation.progress_bar import progress_bar
from dinojax.curation.row_sets import RowSet, claim_rows, drop_sets, list_set
from dinojax.curation.runners import Runner, RunnerOptions, Tables, make_runner
from dinojax.curation.search import CHUNK_ROWS, PROBES, Search, search_by
from dinojax.curation.stage_folder import finish
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
    probes: int = PROBES
    """Lists of the index that are looked at; more find more, and take longer."""
    chunk_rows: int = CHUNK_ROWS
    """That are searched at a time; the devices hold twice as many, and the host as many. The result
    does not depend on it."""


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
    runner, start = make_runner(by), time.perf_counter()
    pool, others = _list(options)
    search, exact = (
        search_by(
            how,
            pool.listing.width,
            probes=options.probes,
            seed=seed,
            chunk=options.chunk_rows,
            name="dedup.index",
        )
        for how in (options.index, None)
    )
    names = ("threshold", "reference_threshold", "neighbours", "index")
    inputs = {"seed": seed, "pixels": hash_bytes(pool.listing.pixels.tobytes())}
    inputs |= {name: getattr(options, name) for name in names}
    inputs |= {} if options.index is None else {"probes": options.probes}
    sets = [pool, *others]
    report, (own, *known) = claim_rows(
        folder, inputs, sets, lambda keys: {"rows": keys[0], "references": keys[1:]}
    )
    if report is not None:
        return report
    stage = _Stage(options, search, exact, folder, sets, own, Joined(tuple(known)))
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
        "rows_in": len(own),
        "rows_out": len(own) - sum(removed.values()),
        "removed": removed,
        "components": components,
        "full_lists": full,
    }
    stage.path("groups").unlink()
    seconds = {"seconds": {"all": time.perf_counter() - start}}
    # Pairs are no outputs: the last bits of similarities depend on how devices share the search.
    report = finish(folder, found | seconds, [stage.path("dedup"), stage.path("kept")])
    drop_sets(folder)
    return report


@dataclass(frozen=True)
class _Stage:
    """Each step leaves a table, and is not done again where this is whole."""

    options: DedupOptions
    search: Search
    exact: Search
    folder: Path
    sets: list[RowSet]
    """The pool, then references."""
    own: Rows
    """Of the pool."""
    known: Joined
    """Of references."""

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"

    def pairs(self, runner: Runner, name: str) -> Tables | None:
        """None: there are none."""
        some = pq.read_metadata(self.path(name)).num_rows > 0
        return runner.read(self.path(name), ["one", "other"]) if some else None

    def search_pool(self) -> None:
        if self.path("pairs").exists():
            return
        parts = [one.listing for one in self.sets]
        ids = pa.chunked_array([part.ids for part in parts])
        # Where features do not say how large the images were, the smallest id stays.
        pixels = np.concatenate([part.pixels for part in parts])
        write_parts(self.path("rows"), ROWS, [pa.table([ids, pixels], schema=ROWS)])
        number = np.arange(len(self.own))
        pairs, full = self._pairs(self.search, self.own, number, self.options.threshold)
        write_pairs(self.path("pairs"), pairs, full)

    def group(self, runner: Runner) -> None:
        if self.path("groups").exists():
            return
        rows = runner.read(self.path("rows"), ROWS.names)
        found = groups(rows, self.pairs(runner, "pairs"), len(self.own))
        write_parts(self.path("groups"), GROUPS, found.sorted("row"))

    def judge(self, runner: Runner) -> None:
        if self.path("dedup").exists():
            return
        near = None
        if self.known.parts:
            if not self.path("reference_pairs").exists():
                self._search_references()
            rows = runner.read(self.path("rows"), ROWS.names)
            pairs = self.pairs(runner, "reference_pairs")
            near = None if pairs is None else references(rows, pairs, len(self.own))
        found = verdicts(runner.read(self.path("groups"), GROUPS.names), near)
        write_parts(self.path("dedup"), VERDICT, found.sorted("row"))

    def _search_references(self) -> None:
        """Of what stays, and of references with each other: copies of copies count.

        Lists of neighbours may fill with one side alone, those of a row with other rows of the pool
        and those of a reference with references. So each row that stays also meets its nearest
        reference, exactly, whatever the index: none above the threshold is overlooked.
        """
        stays = pq.read_table(self.path("groups"), columns=["stays"])["stays"].to_numpy()
        threshold, places = self.options.reference_threshold, np.flatnonzero(stays)
        number = np.r_[len(stays) + np.arange(len(self.known)), places]
        own = Picked(self.own, places)
        every = Joined((*self.known.parts, own))
        among, full = self._pairs(self.search, every, number, threshold)
        parts = self.exact(self.known, own, 1)
        direct, _ = found_pairs(parts, number[: len(self.known)], places, threshold)
        both = Pairs(*map(np.concatenate, zip(among, direct, strict=True)))
        write_pairs(self.path("reference_pairs"), both, full)

    def _pairs(
        self, search: Search, rows: Rows, number: Int[np.ndarray, " n"], threshold: float
    ) -> tuple[Pairs, int]:
        """Of rows with each other."""
        return found_pairs(search(rows, rows, self.options.neighbours), number, number, threshold)

    def full_lists(self) -> dict[str, int]:
        """Lists of neighbours that end above the threshold, by search."""
        names = ["pairs", "reference_pairs"][: 1 + bool(self.known.parts)]
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


def _list(options: DedupOptions) -> tuple[RowSet, list[RowSet]]:
    """(pool, references)"""
    pool, references = list_set(options.rows, "dedup.rows"), []
    for number, folder in enumerate(options.references):
        given = RowsOptions(folder, options.rows.feature)
        one = list_set(given, f"dedup.references[{number}]")
        if one.listing.width != pool.listing.width:
            raise ValueError(
                f"dedup.references: {folder} has {given.feature} of width {one.listing.width} and "
                f"the pool of {pool.listing.width}; embed both alike"
            )
        references.append(one)
    return pool, references


def _check(options: DedupOptions) -> None:
    for name in ("threshold", "reference_threshold"):
        if not -1 <= getattr(options, name) < 1:
            raise ValueError(f"dedup.{name}={getattr(options, name)} must lie in -1..1; use 0.6")
    for name, least in (("neighbours", 2), ("probes", 1), ("chunk_rows", 1)):
        value, usual = (getattr(one, name) for one in (options, DedupOptions()))
        if value < least:
            raise ValueError(f"dedup.{name}={value} must be at least {least}; use {usual}")


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
