"""The stage ``dedup``: one of each group of copies stays, and nothing like an evaluation's images.

``dedup.parquet`` has a row per record: ``id``; ``component``, the id that stays of its group of
copies (of most pixels, where the features tell); ``reference``, the id of an evaluation's image
that it hangs together with (none: null); ``kept``; and ``reason``, "duplicate" or "reference" where
it is not. ``kept.parquet`` lists the ids that stay, as ``cluster.rows.ids`` takes them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from absl import logging
from jaxtyping import Int

from dinojax.curation.duplicates import (
    ALARM_SHARE,
    components,
    holding,
    largest_share,
    representatives,
    similar_pairs,
)
from dinojax.curation.embeddings import Embeddings, RowsOptions, read_embeddings
from dinojax.curation.search import Search, search_by
from dinojax.curation.stage_folder import claim, finish
from dinojax.curation.tables import write_table
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


def dedup_stage(options: DedupOptions, seed: int, folder: Path) -> dict[str, Any]:
    """The report.

    Args:
        seed: of the rows that an index of FAISS learns from.

    Raises:
        ValueError or FileNotFoundError: options or rows that do not fit, or a folder of others.
    """
    _check(options)
    search, start = search_by(options.index, seed), time.perf_counter()
    pool, references = _read(options)
    names = ("threshold", "reference_threshold", "neighbours", "index")
    inputs = {"seed": seed, "rows": pool.fingerprint, "pixels": hash_bytes(pool.pixels.tobytes())}
    inputs |= {"references": [part.fingerprint for part in references]}
    report = claim(folder, inputs | {name: getattr(options, name) for name in names})
    if report is not None:
        return report
    group = joined(pool.rows, options.threshold, options.neighbours, search)
    # Where features do not say how large the images were, the smallest id stays.
    rank = np.argsort(np.argsort(np.asarray(pool.ids)))
    single = representatives(group, pool.pixels, rank)
    near = np.full(len(group), -1)
    if references:
        rows = [*(part.rows for part in references), pool.rows[single]]
        near[single] = first_reference(
            rows, options.reference_threshold, options.neighbours, search
        )
    reason = np.where(single, np.where(near < 0, "", "reference"), "duplicate")
    found = {
        "rows_in": len(reason),
        "rows_out": int((reason == "").sum()),
        "removed": {name: int((reason == name).sum()) for name in ("duplicate", "reference")},
        "components": _sizes(group, options.neighbours),
    }
    stays = np.empty(len(group), np.int64)
    stays[group[single]] = np.flatnonzero(single)
    named = [id for part in references for id in part.ids]
    columns = {
        "id": pool.ids,
        "component": [pool.ids[place] for place in stays[group]],
        "reference": pa.array([None if i < 0 else named[i] for i in near], pa.string()),
        "kept": reason == "",
        "reason": pa.array([one or None for one in reason.tolist()], pa.string()),
    }
    kept = [pool.ids[place] for place in np.flatnonzero(reason == "")]
    paths = [folder / "dedup.parquet", folder / "kept.parquet"]
    write_table(paths[0], columns)
    write_table(paths[1], {"id": pa.array(kept, pa.string())})
    return finish(folder, found | {"seconds": {"all": time.perf_counter() - start}}, paths)


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


def joined(
    rows: np.ndarray, threshold: float, neighbours: int, search: Search
) -> Int[np.ndarray, " n"]:
    """Of each row the first that it hangs together with (`components`)."""
    return components(similar_pairs(search(rows, rows, neighbours), threshold), len(rows))


def first_reference(
    rows: Sequence[np.ndarray], threshold: float, neighbours: int, search: Search
) -> Int[np.ndarray, " n"]:
    """Of each row of the last part, the first row of the parts before that it hangs together
    with; -1: with none."""
    group = joined(np.concatenate(rows), threshold, neighbours, search)
    count = len(group) - len(rows[-1])
    touched = holding(group, np.arange(len(group)) < count)
    return np.where(touched, group, -1)[count:]


def _check(options: DedupOptions) -> None:
    for name in ("threshold", "reference_threshold"):
        if not -1 <= getattr(options, name) < 1:
            raise ValueError(f"dedup.{name}={getattr(options, name)} must lie in -1..1; use 0.6")
    if options.neighbours < 2:
        raise ValueError(f"dedup.neighbours={options.neighbours} must be at least 2; use 64")


def _sizes(group: Int[np.ndarray, " n"], neighbours: int) -> dict[str, Any]:
    size = np.bincount(group)
    share = largest_share(group)
    if share > ALARM_SHARE and size.max() > neighbours:
        text = "dedup: %d records, %.1f %% of all, hang together: raise dedup.threshold=..."
        logging.warning(text, size.max(), 100 * share)
    return {
        "alone": int((size == 1).sum()),
        "groups": int((size > 1).sum()),
        "largest": int(size.max()),
        "largest_share": share,
    }
