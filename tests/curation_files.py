"""Features to curate and a configuration, for processes of their own."""

from pathlib import Path

import numpy as np

from dinojax.embedding.files import Rows, write_parquet

CONFIG = """
from dinojax.config.curation import default_config

def get_config():
    config = default_config()
    config.cluster.rows.folder = "{folder}"
    config.cluster.clusters = (24, 4)
    config.cluster.rounds = (1, 0)
    config.cluster.kept = (6, 1)
    config.cluster.iterations = 6
    config.cluster.chunk_rows = 1500
    config.cluster.seeding = "parallel"
    return config
"""


def write(folder: Path, count: int = 4000, width: int = 6) -> Path:
    """The path of the configuration, in which rows come in three chunks."""
    (folder / "rows").mkdir()
    rng = np.random.default_rng(0)
    label = rng.integers(0, 7, count)
    rows = (3 * rng.normal(size=(7, width))[label] + rng.normal(size=(count, width))).astype("f4")
    part = Rows([f"record {i}" for i in range(count)], label, {"cls": rows})
    write_parquet(folder / "rows" / "all.parquet", [part])
    path = folder / "config.py"
    path.write_text(CONFIG.format(folder=folder / "rows"))
    return path
