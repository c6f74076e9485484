"""What ``python -m dinojax.show pca|attention|similarity|norms|neighbours`` does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging

from dinojax.backbones.model import Model
from dinojax.backbones.open import open_backbone
from dinojax.backbones.opened import Opened
from dinojax.backbones.run import Trained, open_trained
from dinojax.config.students import config_of
from dinojax.imported import IMPORTED
from dinojax.pictures import panels
from dinojax.pictures.clicks import clickable
from dinojax.pictures.figure import Figure, as_html, draw, png
from dinojax.pictures.images import Named, from_source, read_squares
from dinojax.pictures.page import page
from dinojax.runtime.atomic import replace_bytes, replace_text
from dinojax.runtime.checkpoint import DIRECTORY
from dinojax.training.data import open_data
from dinojax.training.safety import SNAPSHOTS

DATA = "scenes:1000"
"""Images where none are given and the checkpoint is of no run, or of one whose images are gone."""
COLUMNS = 7
"""Checkpoints of a series that are shown at most."""


@dataclass(frozen=True)
class Wanted:
    """What to show of which images."""

    checkpoint: str
    data: Sequence[str] = ()
    """Files, folders and other sources; none: as `read_images` says."""
    image_px: int | None = None
    """Side of the squares; None: as the model says."""
    images: int = 8
    """How many of each folder or source."""
    layer: int = -1
    at: tuple[float, float] = (0.5, 0.5)
    """Of the patch that others are compared to: how far down and to the right in its image."""
    of: int = 0
    """Which image that is."""
    series: bool = False
    """Of a run: also its earlier snapshots or checkpoints."""
    foreground: bool = False
    k: int = 6
    batch: int = 4


def show_pca(wanted: Wanted, model: Model, images: list[Named]) -> Figure:
    others = earlier_ones(wanted.checkpoint) if wanted.series else []
    series = []
    for one in others[:-1]:
        label = f"step {one.step}"
        series.append(panels.look(model.with_weights(one), images, label, wanted.batch))
    label = f"step {others[-1].step}" if others else "PCA"
    series.append(panels.look(model, images, label, wanted.batch))
    return panels.pca_figure(
        "Patch features as colours",
        facts(model, images),
        images,
        series,
        only_foreground=wanted.foreground,
    )


def show_attention(wanted: Wanted, model: Model, images: list[Named]) -> Figure:
    return panels.attention_figure(
        "What CLS attends to", facts(model, images), images, model, wanted.layer, wanted.batch
    )


def show_similarity(wanted: Wanted, model: Model, images: list[Named]) -> Figure:
    seen = panels.look(model, images, batch=wanted.batch)
    start = chosen_patch(wanted, seen.patches.shape)
    return panels.similarity_figure(
        "Similarity to one patch", facts(model, images), images, seen, start
    )


def show_norms(wanted: Wanted, model: Model, images: list[Named]) -> Figure:
    return panels.norms_figure(
        "Norms of patch tokens", facts(model, images), images, model, wanted.batch
    )


def show_neighbours(wanted: Wanted, model: Model, images: list[Named]) -> Figure:
    if len(images) < 2:
        raise ValueError(f"{len(images)} image has no neighbours; give more, with --images=200")
    seen = panels.look(model, images, batch=wanted.batch)
    return panels.neighbours_figure(
        "Nearest images",
        facts(model, images),
        images,
        seen.cls,
        queries=min(6, len(images)),
        k=wanted.k,
    )


COMMANDS: dict[str, Callable[[Wanted, Model, list[Named]], Figure]] = {
    "pca": show_pca,
    "attention": show_attention,
    "similarity": show_similarity,
    "norms": show_norms,
    "neighbours": show_neighbours,
}


def show_features(command: str, wanted: Wanted, out: str) -> Path:
    """Draw to `out`, a ``.png`` or ``.html`` file; of ``similarity`` that page answers clicks.

    Raises:
        ValueError: another kind of file, or what the model cannot do.
        FileNotFoundError: no such checkpoint or images.
        dinojax.runtime.errors.CheckpointError: a damaged checkpoint.
    """
    path = Path(out)
    if path.suffix not in (".png", ".html"):
        raise ValueError(f"--out={out} is neither .png nor .html; use --out={path.stem}.html")
    newest = earlier_ones(wanted.checkpoint)[-1].name if wanted.series else wanted.checkpoint
    opened = open_backbone(newest)
    model = Model.read(opened)
    side = wanted.image_px or model.images.image_px
    images = read_images(opened, wanted.data, wanted.images, side)
    path.parent.mkdir(parents=True, exist_ok=True)
    if command == "similarity" and path.suffix == ".html":
        replace_text(path, _clickable(wanted, model, images))
        return path
    figure = COMMANDS[command](wanted, model, images)
    if path.suffix == ".png":
        replace_bytes(path, png(draw(figure)))
    else:
        replace_text(path, page(f"{figure.title}: {model.name}", (), [as_html(figure)]))
    return path


def read_images(opened: Opened, data: Sequence[str], limit: int, side: int) -> list[Named]:
    """Squares of `data`; where none are given, of what the backbone's run has held out, or `DATA`.

    Raises: as `read_squares`.
    """
    channels = opened.images.channels
    if not data and isinstance(opened, Trained) and IMPORTED not in opened.contract:
        found, cause = [], "none can be read"
        try:
            found = from_source(open_data(config_of(opened)).queries, limit, side, channels)
        except (ValueError, OSError) as error:
            cause = error
        if found:
            return found
        logging.warning("%s in place of the images of the run: %s", DATA, cause)
    return read_squares(data or [DATA], limit, side, channels)


def _clickable(wanted: Wanted, model: Model, images: list[Named]) -> str:
    seen = panels.look(model, images, batch=wanted.batch)
    return clickable(
        "Similarity of patches",
        facts(model, images),
        [(one.name, panels.shown(one.pixels)) for one in images],
        seen.patches,
        chosen_patch(wanted, seen.patches.shape),
    )


def chosen_patch(wanted: Wanted, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(image, row, column) of the patch at the given place.

    Raises:
        ValueError: outside the images.
    """
    count, rows, columns = shape[:3]
    down, right = wanted.at
    if not (0 <= down < 1 and 0 <= right < 1):
        raise ValueError(f"--at={down},{right} is outside 0..1; use 0.5,0.5 for the middle")
    if not 0 <= wanted.of < count:
        raise ValueError(f"--of={wanted.of} is none of {count} images; use 0")
    return wanted.of, int(down * rows), int(right * columns)


def facts(model: Model, images: list[Named]) -> list[str]:
    """What a figure is of."""
    side = images[0].pixels.shape[0]
    grid = side // model.stride
    return [
        f"{model.name}  (weights {model.fingerprint})",
        f"{side} px, {grid} x {grid} patches of {model.stride} px",
    ]


def earlier_ones(checkpoint: str) -> list[Trained]:
    """Snapshots of a run, or checkpoints where it has none, evenly chosen; the last one last.

    Raises:
        FileNotFoundError: it has none.
        ValueError: not the workdir of a run.
    """
    path, mark, student = checkpoint.partition("#")
    workdir = Path(path)
    for series in (SNAPSHOTS, DIRECTORY):
        steps = sorted(
            int(path.name) for path in (workdir / series).glob("*") if path.name.isdigit()
        )
        if steps:
            count = min(COLUMNS, len(steps))
            chosen = sorted({steps[round(i)] for i in np.linspace(0, len(steps) - 1, count)})
            return [open_trained(f"{workdir}/{series}/{step}{mark}{student}") for step in chosen]
    raise FileNotFoundError(f"{workdir} has no snapshots or checkpoints; give the workdir of a run")
