"""A page on which a click on a patch colours all patches of all images by their similarity to it.

The page carries the features themselves, as one byte per number, and computes the cosines.
"""

import base64
import json
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int8

from dinojax.pictures.colours import INFERNO
from dinojax.pictures.figure import Figure, Tile, data_url, fitted
from dinojax.pictures.page import page
from dinojax.precision import host_unit_rows

WIDTH = 128
"""Numbers per patch at most: wider features are projected to the directions that hold most."""
SCRIPT = "clicks.js"
STYLE = """
.pair { display: flex; flex-wrap: wrap; gap: 12px; margin: 14px 0; }
.pair canvas { display: block; cursor: crosshair; image-rendering: pixelated; max-width: 100%; }
#said { position: sticky; top: 0; background: var(--paper); padding: .5rem 0; z-index: 1; }
"""


class Packed(NamedTuple):
    """Unit vectors in bytes."""

    values: Int8[np.ndarray, "n h w d"]
    scale: float
    """What 127 stands for."""
    kept: float
    """Share of the squared lengths that the kept directions hold."""


def pack(patches: Float[np.ndarray, "n h w D"], width: int = WIDTH) -> Packed:
    """Cosines of the packed vectors are those of the features, but for what is cut and rounded."""
    x, kept = host_unit_rows(np.asarray(patches, np.float32)), 1.0
    if x.shape[-1] > width:
        flat = x.reshape(-1, x.shape[-1])
        values, vectors = np.linalg.eigh((flat.T @ flat).astype(np.float64))
        kept = float(values[-width:].sum() / values.sum())
        x = host_unit_rows(x @ vectors[:, -width:].astype(np.float32))
    scale = float(np.abs(x).max())
    return Packed((x * (127 / scale)).round().astype(np.int8), scale, kept)


def clickable(
    title: str,
    facts: Sequence[str],
    images: Sequence[tuple[str, np.ndarray]],
    patches: Float[np.ndarray, "n h w D"],
    start: tuple[int, int, int],
) -> str:
    """The page.

    Args:
        images: (name, pixels) of each.
        start: (image, row, column) of the patch that is chosen at first.
    """
    packed = pack(patches)
    count, rows, columns, width = packed.values.shape
    frame = Figure("", (), (), grid=(rows, columns))
    data = {
        "rows": rows,
        "columns": columns,
        "width": width,
        "scale": packed.scale,
        "start": list(start),
        "tile": list(frame.tile_size),
        "names": [name for name, _ in images],
        "images": [data_url(fitted(Tile(pixels), frame)) for _, pixels in images],
        "features": base64.b64encode(packed.values.tobytes()).decode(),
        "colours": INFERNO.astype(int).tolist(),
    }
    if packed.kept < 1:
        facts = [
            *facts,
            f"cosines here are of the {width} directions that hold {packed.kept:.1%} of the "
            f"features of width {patches.shape[-1]}",
        ]
    script = resources.files("dinojax.pictures").joinpath(SCRIPT).read_text(encoding="utf-8")
    text = json.dumps(data).replace("</", "<\\/")
    body = (
        f'<p id="said" class="fact"></p><div id="pairs"></div>'
        f"<script>const DATA = {text};\n{script}</script>"
    )
    assert count == len(images)
    return page(title, facts, [body], STYLE)
