"""Features of ten records, in files as `dinojax.embed` writes them."""

from pathlib import Path

import numpy as np

from dinojax.embedding.files import FORMATS, Rows

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(10, 3)).astype(np.float32)
IDS = [f"image {i}" for i in range(10)]
LABELS = np.asarray([0, 1, -1, 0, 1, -1, 0, 1, -1, 0], np.int32)


def written(
    folder: Path, parts=((0, 6), (6, 10)), rows=ROWS, ids=IDS, format: str = "parquet"
) -> Path:
    """As `dinojax.embed` writes."""
    folder.mkdir(exist_ok=True)
    ending, write, _ = FORMATS[format]
    for number, (first, end) in enumerate(parts):
        part = Rows(ids[first:end], LABELS[first:end], {"cls": rows[first:end]})
        write(folder / f"features-{number:05}-of-{len(parts):05}{ending}", [part])
    return folder
