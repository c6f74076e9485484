"""The stage ``embed``: features of named sources, for the other stages to read.

``embed/NAME/`` has the files of `dinojax.embed` for the source of that name, and nothing else: what
``dedup.rows.folder`` and its like take. A source that is added later leaves the others as they are.
Several processes may make the same call (`dinojax.embed`).
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import pyarrow.parquet as pq
from absl import logging

from dinojax.backbones.model import Model
from dinojax.backbones.open import open_backbone
from dinojax.curation.named import Named, check_names
from dinojax.curation.progress_bar import progress_bar
from dinojax.curation.stage_folder import REPORT, finish, read_report
from dinojax.data.open import open_source
from dinojax.data.source import Source
from dinojax.embedding.embed import ABOUT, embed, own_model, shards
from dinojax.runtime.agreement import check_shared


@dataclass(frozen=True)
class EmbedOptions:
    """What `dinojax.embed` is called with for each source."""

    model: str | None = None
    """As `dinojax.load` takes it: a run, a file of weights, the name of a released model."""
    sources: Named = ()
    """(name, source) pairs, such as ("pool", "folder:/data/images"); sources as data.source."""
    features: tuple[str, ...] = ("cls",)
    """Columns of the files: "cls", "registers", "patches", "mean_patch"."""
    image_px: int | None = None
    """Side of the centre crops. None: the one that the model says."""
    precision: str | None = None
    """Of the computations, as train.precision. None: that of the run; float32 for all else."""
    batch_size: int = 64
    """Images at a time, over all devices of a process."""
    shard: int = 4096
    """Records per file; of what is killed, whole files stay."""


def embed_stage(options: EmbedOptions, folder: Path) -> dict[str, Any]:
    """Do what is left of all sources; the report.

    Args:
        folder: for ``report.json`` and the folders of the sources.

    Raises:
        ValueError or FileNotFoundError: options that do not fit, no such model or source, a folder
            of other features, or a file that is not as the report says.
    """
    if options.model is None:
        raise ValueError(
            "embed.model=None is no model; give what dinojax.load takes, such as a run's workdir"
        )
    check_names(options.sources, "embed.sources")
    sources = {name: open_source(spec) for name, spec in options.sources}
    model = own_model(open_backbone(options.model, precision=options.precision))
    writes, report = jax.process_index() == 0, folder / REPORT
    before = _told(folder) if writes and report.exists() else {"sources": {}}
    counts, paths = dict(before["sources"]), []
    for name, source in sources.items():
        logging.info("embed: %s, %d records, with %r", name, len(source), model)
        found, files = _embed(source, model, options, folder / name)
        if found["images_per_s"] is not None or name not in counts:
            counts[name] = found
        paths += files
    inputs = {name: json.loads((folder / name / ABOUT).read_text("utf-8")) for name in sources}
    if writes and before.get("inputs") != inputs:
        finish(folder, {"sources": {name: counts[name] for name in sources}}, paths, inputs)
    check_shared(report)
    return json.loads(report.read_text(encoding="utf-8"))


def _told(folder: Path) -> dict[str, Any]:
    """The report so far; without what it was of, where a source has been deleted to do it anew."""
    found = read_report(folder, some_gone=True)
    whole = all((folder / name).exists() for name in found["outputs"])
    return found if whole else {"sources": found["sources"]}


def _embed(
    source: Source, model: Model, options: EmbedOptions, folder: Path
) -> tuple[dict[str, Any], list[Path]]:
    """(counts of one source, its files)"""
    start, files = time.perf_counter(), shards(folder, len(source), options.shard)
    new = [len(places) for path, places in files.items() if not path.exists()]
    images, own = sum(new), sum(new[:: jax.process_count()])  # of the process that has the bar
    done = len(source) - images
    with progress_bar(f"embed: {folder.name}", done + own, "images", done) as bar:
        paths = embed(
            source,
            model,
            folder,
            features=options.features,
            image_px=options.image_px,
            batch_size=options.batch_size,
            shard=options.shard,
            on_images=bar.update,
        )
    seconds = time.perf_counter() - start
    rows_out = sum(pq.read_metadata(path).num_rows for path in paths)
    return {
        "rows_in": len(source),
        "rows_out": rows_out,
        "unreadable": len(source) - rows_out,
        # Of this call, compilation included: one that was killed before had a time of its own.
        "seconds": seconds,
        "images_per_s": images / seconds if images else None,
    }, paths
