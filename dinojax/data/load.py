"""Records onto canvases: the part of a batch that reads files."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from dinojax.data.decode import read_image, to_canvas
from dinojax.data.source import Source

Canvases = UInt8[np.ndarray, "b C C 3"]
Sizes = Int32[np.ndarray, "b 2"]


def load(
    source: Source, index: Int64[np.ndarray, " n"], batch: int, canvas_px: int, num_threads: int
) -> tuple[Canvases, Sizes, Int32[np.ndarray, " b"]]:
    """(canvas, size, label) of these records, decoded in threads straight into place.

    Slots beyond the records hold black images of full size (so that nothing downstream divides by
    zero) and label -1.
    """
    canvas = np.zeros((batch, canvas_px, canvas_px, 3), np.uint8)
    size = np.full((batch, 2), canvas_px, np.int32)
    label = np.full(batch, -1, np.int32)

    def fill(slot: int) -> None:
        record = source[int(index[slot])]
        _, size[slot] = to_canvas(read_image(record, canvas_px), canvas_px, out=canvas[slot])
        if record.label is not None:
            label[slot] = record.label

    # Starting threads takes a millisecond per batch; a pool kept alive would have to be pickled,
    # owned and closed.
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        for _ in pool.map(fill, range(len(index))):
            pass
    return canvas, size, label
