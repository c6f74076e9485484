"""Patches as colours: their first three principal components as red, green and blue.

As DINOv2 (arXiv:2304.07193, section 7.2 and figure 1) shows its features. A basis can be kept, so
that pictures of several images, sizes and checkpoints have the same colours for the same features.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

PERCENTILES = (1.0, 99.0)
"""Of each component over the patches that a basis is fitted to: what black and white mean."""
BACKGROUND = (24, 26, 30)


class Basis(NamedTuple):
    """Three directions of features, and the range of each that is shown."""

    mean: Float[np.ndarray, " D"]
    components: Float[np.ndarray, "D 3"]
    low: Float[np.ndarray, " 3"]
    high: Float[np.ndarray, " 3"]
    explained: float
    """Share of the variance in these directions."""


def fit_basis(
    patches: Float[np.ndarray, "n D"], guide: Float[np.ndarray, " n"] | None = None
) -> Basis:
    """The directions of largest variance.

    Args:
        guide: a number per patch, such as its brightness, with which each component rises: signs
            are arbitrary otherwise, and colours would turn over from one checkpoint to the next.
            None: the largest weight of each direction is positive.

    Raises:
        ValueError: fewer than four patches.
    """
    if len(patches) < 4:
        raise ValueError(f"{len(patches)} patches have no three directions; give larger images")
    x = np.asarray(patches, np.float64)
    mean = x.mean(0)
    values, vectors = np.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    components = vectors[:, ::-1][:, :3]
    if components.shape[1] < 3:  # of features narrower than that
        components = np.pad(components, ((0, 0), (0, 3 - components.shape[1])))
    if guide is None:
        sign = components[np.abs(components).argmax(0), np.arange(3)]
    else:
        sign = ((x - mean) @ components).T @ (guide - guide.mean())
    components = components * np.where(sign < 0, -1, 1)
    low, high = np.percentile((x - mean) @ components, PERCENTILES, axis=0)
    explained = float(values[::-1][:3].sum() / max(values.sum(), 1e-30))
    return Basis(mean, components, low, high, explained)


def to_rgb(
    basis: Basis,
    patches: Float[np.ndarray, "h w D"],
    shown: Bool[np.ndarray, "h w"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The colours of an image's patches; those not `shown` are dark grey."""
    projected = (np.asarray(patches, np.float64) - basis.mean) @ basis.components
    unit = (projected - basis.low) / np.maximum(basis.high - basis.low, 1e-12)
    colours = (255 * unit.clip(0, 1)).round().astype(np.uint8)
    if shown is not None:
        colours[~shown] = BACKGROUND
    return colours


def foreground(patches: Float[np.ndarray, "n h w D"]) -> Bool[np.ndarray, "n h w"]:
    """Which patches belong to objects: one side of the first principal component over all images.

    The threshold is Otsu's (between the two groups with the least variance inside them), the side
    the one that lies less at the borders of the images.
    """
    flat = patches.reshape(-1, patches.shape[-1])
    basis = fit_basis(flat)
    score = ((patches - basis.mean) @ basis.components[:, 0]).astype(np.float64)
    above = score > otsu(score.ravel())
    border = np.ones(above.shape, bool)
    border[:, 1:-1, 1:-1] = False
    return above if above[border].mean() <= above[~border].mean() else ~above


def otsu(values: Float[np.ndarray, " n"], bins: int = 256) -> float:
    """The threshold that leaves the least variance within the values below and above it."""
    counts, edges = np.histogram(values, bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = counts.cumsum()[:-1], counts[::-1].cumsum()[::-1][1:]
    sums = (counts * centres).cumsum()
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below * above * (mean_below - mean_above) ** 2
    return float(edges[1 + int(between.argmax())])
