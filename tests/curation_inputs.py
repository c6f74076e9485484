"""A pool with copies of copies, references that are like some of it, and a tree of clusters."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dinojax.curation.dedup_stage import DedupOptions, dedup_stage
from dinojax.curation.embeddings import RowsOptions
from dinojax.curation.runners import RunnerOptions
from dinojax.curation.sample_stage import SampleOptions, sample_stage
from dinojax.curation.stage_folder import claim, finish
from dinojax.curation.tables import write_table
from dinojax.curation.tree import tree_path
from dinojax.embedding.files import Rows, write_parquet

SEED = 3


class Inputs(NamedTuple):
    dedup: DedupOptions
    sample: SampleOptions
    clusters: Path


def write_inputs(folder: Path) -> Inputs:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 24))
    for _ in range(4):  # each time of copies, too
        rows = np.concatenate([rows, rows[rng.integers(0, len(rows), 20)]])
        rows[-20:] += 0.15 * rng.normal(size=(20, 24))
    tests = np.concatenate([rows[:8] + 0.5 * rng.normal(size=(8, 24)), rng.normal(size=(5, 24))])
    for name, some in (("pool", rows), ("tests", tests)):
        (folder / name).mkdir()
        ids = [f"{name}/{i}" for i in rng.permutation(len(some))]
        part = Rows(ids, np.zeros(len(some), np.int32), {"cls": some.astype(np.float32)})
        write_parquet(folder / name / "a.parquet", [part])
    dedup = DedupOptions(
        RowsOptions(str(folder / "pool")), (str(folder / "tests"),), 0.95, 0.8, neighbours=6
    )
    return Inputs(dedup, SampleOptions(60, 2), write_tree(folder / "cluster", rng))


def write_tree(folder: Path, rng: np.random.Generator) -> Path:
    label = rng.integers(-1, 4, 200)
    claim(folder, {})
    columns = {
        "child": [f"id {i}" for i in range(200)],
        "parent": np.minimum(rng.geometric(0.1, 200), 29),
        "squared_distance": rng.random(200).astype(np.float32),
        "label": pa.array(label.astype(np.int32), mask=label < 0),
    }
    write_table(tree_path(folder, 1), columns)
    columns = {"child": np.arange(30), "parent": rng.integers(0, 5, 30)}
    write_table(tree_path(folder, 2), columns)
    finish(folder, {"levels": [{}, {}]}, [tree_path(folder, level) for level in (1, 2)])
    return folder


def run_dedup(inputs: Inputs, folder: Path, engine: str = "local") -> dict:
    return same(dedup_stage(inputs.dedup, SEED, folder, RunnerOptions(engine)))


def run_sample(inputs: Inputs, folder: Path, engine: str = "local") -> dict:
    by = RunnerOptions(engine)
    return same(sample_stage(inputs.sample, SEED, folder, inputs.clusters, by))


def same(report: dict) -> dict:
    """What every runner reports alike, hashes of the tables included."""
    return {key: value for key, value in report.items() if key != "seconds"}
