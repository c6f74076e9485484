"""Figures of a frozen backbone: PCA colours, CLS attention, similarity, norms, neighbours."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from einops import reduce
from jaxtyping import Float, UInt8

from dinojax.backbones.model import Model
from dinojax.pictures.colours import heat
from dinojax.pictures.figure import Figure, Scale, Tile
from dinojax.pictures.images import Named, shown
from dinojax.pictures.pca import fit_basis, foreground, to_rgb
from dinojax.pictures.similarity import cosine_map, nearest

BRIGHTEST = 99.5
"""Percentile of a map that is light yellow: a single outlier must not darken all else."""


class Seen(NamedTuple):
    """What a model makes of some images."""

    label: str
    """Of the model among others, as ``step 400``."""
    cls: Float[np.ndarray, "n D"]
    patches: Float[np.ndarray, "n h w D"]


def look(model: Model, images: Sequence[Named], label: str = "", batch: int = 4) -> Seen:
    """Features of square images of one size, `batch` of them at a time."""
    cls, patches = [], []
    for part in batches(images, batch):
        found = model.features(part)
        cls.append(model.fetch(found["cls"]))
        patches.append(model.fetch(found["patches"]))
    count = len(images)
    return Seen(label, np.concatenate(cls)[:count], np.concatenate(patches)[:count])


def batches(images: Sequence[Named], batch: int) -> list[UInt8[np.ndarray, "b S S C"]]:
    """Of equal length, so that one program is compiled; the last image fills them up."""
    batch = min(batch, len(images))
    padded = [one.pixels for one in images]
    padded += [padded[-1]] * (-len(padded) % batch)
    return [np.stack(padded[i : i + batch]) for i in range(0, len(padded), batch)]


def patch_means(
    pixels: UInt8[np.ndarray, "S T C"], grid: tuple[int, ...]
) -> Float[np.ndarray, "h w"]:
    """Mean brightness of each patch."""
    return reduce(pixels.astype(np.float64), "(h p) (w q) C -> h w", "mean", h=grid[0], w=grid[1])


def pca_figure(
    title: str,
    facts: Sequence[str],
    images: Sequence[Named],
    series: Sequence[Seen],
    *,
    only_foreground: bool = False,
) -> Figure:
    """The first three principal components as colours, of one model or of a run over time.

    The basis is that of the last of the `series`, over all images, and the same for all: equal
    colours are equal features. With `only_foreground` it is that of objects alone.
    """
    last = series[-1].patches
    masks = foreground(last) if only_foreground else np.ones(last.shape[:3], bool)
    brightness = np.stack([patch_means(one.pixels, last.shape[1:3]) for one in images])
    basis = fit_basis(last[masks], brightness[masks])
    rows = []
    for place, image in enumerate(images):
        tiles = [Tile(shown(image.pixels), "image")]
        for one in series:
            colours = to_rgb(basis, one.patches[place], masks[place] if only_foreground else None)
            tiles.append(Tile(colours, one.label))
        rows.append((image.name, tiles))
    of = "the foreground, which Otsu's threshold on the first splits off," * only_foreground
    of = of or "all patches"
    when = f" at {series[-1].label}" if len(series) > 1 else ""
    said = [
        *facts,
        f"red, green, blue: principal components 1 to 3 of {of}{when}, "
        f"{basis.explained:.0%} of their variance; one basis for everything shown",
    ]
    return Figure(title, said, rows, grid=last.shape[1:3])


def attention_figure(
    title: str, facts: Sequence[str], images: Sequence[Named], model: Model, layer: int, batch: int
) -> Figure:
    """What CLS attends to in a layer: the mean over heads, and each head."""
    found = [model.fetch(model.cls_attention(part, layer)) for part in batches(images, batch)]
    weights = np.concatenate(found)[: len(images)]
    rows = []
    for image, heads in zip(images, weights, strict=True):
        tiles = [Tile(shown(image.pixels), "image"), _attention("mean of heads", heads.mean(0))]
        tiles += [_attention(f"head {i}", one) for i, one in enumerate(heads)]
        rows.append((image.name, tiles))
    said = [
        *facts,
        f"weights of CLS on patches, layer {layer % model.layers} of 0..{model.layers - 1}; "
        "captions: share on all patches (the rest: CLS and registers), largest weight",
    ]
    scale = Scale("0", f"percentile {BRIGHTEST} of each map")
    return Figure(title, said, rows, scale, grid=weights.shape[2:])


def _attention(name: str, weights: Float[np.ndarray, "h w"]) -> Tile:
    caption = f"{name}: {weights.sum():.1%}, up to {weights.max() / weights.mean():.0f}x the mean"
    return Tile(heat(weights, 0.0, float(np.percentile(weights, BRIGHTEST))), caption)


def similarity_figure(
    title: str,
    facts: Sequence[str],
    images: Sequence[Named],
    seen: Seen,
    start: tuple[int, int, int],
) -> Figure:
    """The cosine of every patch of every image with one of them.

    Args:
        start: its (image, row, column).
    """
    cosines = cosine_map(seen.patches, *start)
    low = float(cosines.min())
    rows = []
    for place, image in enumerate(images):
        grid = seen.patches.shape[1:3]
        mark = (*start[1:], *grid) if place == start[0] else None
        here = cosines[place]
        tiles = [
            Tile(shown(image.pixels), "the patch" if mark else "image", mark),
            Tile(heat(here, low, 1.0), f"{here.min():.2f} to {here.max():.2f}", mark),
        ]
        rows.append((image.name, tiles))
    where = f"row {start[1]}, column {start[2]} of {images[start[0]].name}"
    said = [*facts, f"cosine similarity to the patch in {where}"]
    return Figure(title, said, rows, Scale(f"{low:.2f}", "1.00"), grid=seen.patches.shape[1:3])


def norms_figure(
    title: str,
    facts: Sequence[str],
    images: Sequence[Named],
    model: Model,
    batch: int,
) -> Figure:
    """Lengths of patch tokens before the final norm, on one scale: outliers are artefacts
    (arXiv:2309.16588)."""
    found = [model.fetch(model.patch_norms(part)) for part in batches(images, batch)]
    norms = np.concatenate(found)[: len(images)]
    high, median = float(norms.max()), float(np.median(norms))
    rows = []
    for image, here in zip(images, norms, strict=True):
        caption = f"median {np.median(here):.1f}, max {here.max():.1f}"
        rows.append(
            (image.name, [Tile(shown(image.pixels), "image"), Tile(heat(here, 0.0, high), caption)])
        )
    share = float((norms > 2 * median).mean())
    said = [
        *facts,
        f"L2 norms of patch tokens before the final norm; {share:.1%} are over twice the median "
        f"of {median:.1f}",
    ]
    return Figure(title, said, rows, Scale("0", f"{high:.1f}"), grid=norms.shape[1:])


def neighbours_figure(
    title: str,
    facts: Sequence[str],
    images: Sequence[Named],
    cls: Float[np.ndarray, "n D"],
    *,
    queries: int,
    k: int,
) -> Figure:
    """The images nearest to each of the first ones by their CLS, without themselves."""
    own = np.arange(queries)
    places, cosines = nearest(cls[:queries], cls, k, own=own)
    rows = []
    for query in range(queries):
        tiles = [Tile(shown(images[query].pixels), "query")]
        for place, cosine in zip(places[query], cosines[query], strict=True):
            tiles.append(Tile(shown(images[place].pixels), f"{cosine:.3f}  {images[place].name}"))
        rows.append((images[query].name, tiles))
    said = [*facts, f"nearest of {len(images)} images by cosine similarity of CLS"]
    return Figure(title, said, rows)
