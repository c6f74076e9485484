"""``python tests/curation_memory.py STAGE FOLDER ROWS WIDTH``: what a stage holds at most.

A process of its own, without the type checks of the tests. It writes features first. Prints JSON:
MB of features, and of memory before the stage and at its peak.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from absl import logging

from dinojax.config.curation import CurationConfig
from dinojax.curate import curate
from dinojax.curation.cluster_stage import ClusterOptions
from dinojax.curation.dedup_stage import DedupOptions
from dinojax.curation.embeddings import RowsOptions
from dinojax.curation.retrieve_stage import RetrieveOptions
from dinojax.embedding.files import Rows, write_parquet

FILES, BATCH = 4, 4096


def write(folder: Path, count: int, width: int) -> None:
    """Blobs, in files of one row group per batch."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(8, width)).astype(np.float32)

    def batches(number: int):
        for first in range(number * count // FILES, (number + 1) * count // FILES, BATCH):
            some = min(BATCH, (number + 1) * count // FILES - first)
            ids = [f"record {first + i}" for i in range(some)]
            label = rng.integers(0, 8, some)
            rows = means[label] + rng.normal(size=(some, width)).astype(np.float32)
            yield Rows(ids, label, {"cls": rows})

    for number in range(FILES):
        write_parquet(folder / f"part-{number}.parquet", batches(number))


def memory(name: str) -> float:
    """MB: ``VmRSS`` is now, ``VmHWM`` the most since `forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1000


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def config(folder: str) -> CurationConfig:
    """Of all stages, each in chunks of some MB."""
    rows = RowsOptions(f"{folder}/rows")
    return CurationConfig(
        cluster=ClusterOptions(
            rows,
            **{"clusters": (8,), "rounds": (1,), "kept": (1000,), "iterations": 2},
            **{"seeding": "parallel", "chunk_rows": 2**15},
        ),
        dedup=DedupOptions(
            rows,
            (f"{folder}/few",),
            **{"threshold": 0.8, "reference_threshold": 0.8, "neighbours": 4},
            **{"index": "IVF64,PQ32x4fs", "probes": 1, "chunk_rows": 2**14},
        ),
        retrieve=RetrieveOptions(RowsOptions(f"{folder}/few"), rows=rows, chunk_rows=2**14),
    )


def main(stage: str, folder: str, count: int, width: int) -> None:
    logging.set_verbosity(logging.INFO)
    for name, rows in (("rows", count), ("few", 1000)):
        (Path(folder) / name).mkdir()
        write(Path(folder) / name, rows, width)
    jax.devices()
    before = memory("VmRSS")
    forget()
    report = curate(stage, config(folder), Path(folder) / "work")
    features = 4 * report["rows_in"] * width / 10**6
    found = {"features": features, "before": before, "most": memory("VmHWM")}
    print(json.dumps(found | {"seconds": report["seconds"]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
