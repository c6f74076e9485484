"""Features of ten records, in files as `dinojax.embed` writes them."""

from pathlib import Path

import numpy as np

from dinojax.embedding.files import Rows, write_parquet

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(10, 3)).astype(np.float32)
IDS = [f"image {i}" for i in range(10)]
LABELS = np.asarray([0, 1, -1, 0, 1, -1, 0, 1, -1, 0], np.int32)


def written(folder: Path, parts=((0, 6), (6, 10)), rows=ROWS, ids=IDS) -> Path:
    """As `dinojax.embed` writes."""
    folder.mkdir()
    for number, (first, end) in enumerate(parts):
        part = Rows(ids[first:end], LABELS[first:end], {"cls": rows[first:end]})
        write_parquet(folder / f"features-{number:05}-of-{len(parts):05}.parquet", [part])
    return folder
