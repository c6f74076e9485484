"""Before a run: are the records readable (`verify`), and are they the same as last time
(`fingerprint`)?"""

from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import numpy as np

from dinojax.data.decode import read_image
from dinojax.data.pipeline import default_threads
from dinojax.data.source import Source

SHOWN = 3
SAMPLED = 64


def verify(source: Source, canvas_px: int, limit: int = 2048, channels: int = 3) -> int:
    """Read up to `limit` records, evenly spread, as training would, and return how many.

    Raises:
        ValueError: some cannot be read; names the first few.
    """

    def complaint(index: int) -> str | None:
        try:
            read_image(source[index], canvas_px, channels)
        except (ValueError, OSError) as error:
            return str(error)
        return None

    chosen = _spread(len(source), limit)
    with ThreadPoolExecutor(default_threads()) as pool:
        complaints = [text for text in pool.map(complaint, chosen) if text is not None]
    if complaints:
        more = "; ..." if len(complaints) > SHOWN else ""
        raise ValueError(
            f"{len(complaints)} of {len(chosen)} checked records cannot be read: "
            f"{'; '.join(complaints[:SHOWN])}{more}; remove or replace them"
        )
    return len(chosen)


def fingerprint(source: Source) -> str:
    """32 hex digits that change with the number, order or ids of the records.

    The images of up to 64 records, evenly spread, count as well: other data under the same names is
    noticed, a single changed file may not be.
    """
    digest = blake2b(digest_size=16)
    for index in range(len(source)):
        digest.update(source.record_id(index).encode() + b"\0")
    for index in _spread(len(source), SAMPLED):
        image = source[index].image
        data = image if isinstance(image, bytes) else image.tobytes()
        digest.update(b"%d\0" % len(data) + data)
    return digest.hexdigest()


def _spread(count: int, limit: int) -> list[int]:
    """Up to `limit` distinct indices from first to last."""
    chosen = min(count, limit)
    return (np.arange(chosen) * (count - 1) // max(chosen - 1, 1)).tolist()
