"""One object per image from the similarities of its patches, without any training.

Two ways that are in use: LOST (arXiv:2109.14279) grows the object from the patch that is least like
the others; TokenCut (arXiv:2202.11539) cuts the graph of similar patches in two and takes the more
salient side. Both return the box of the connected region around the patch they are surest of.
DINOv3 reports TokenCut, at the best of the thresholds 0..0.4 (arXiv:2508.10104, section 6.1.4).
"""

import numpy as np

from dinojax.evaluation.object_boxes import Box, centre_of, region_box
from dinojax.precision import host_unit_rows
from dinojax.typing import Float

WEAK_EDGE = 1e-5
"""Between patches that are not similar, so that the graph is connected."""


def cosines(patches: Float[np.ndarray, "h w D"]) -> Float[np.ndarray, "P P"]:
    """Between all pairs of an image's patches, float64."""
    flat = host_unit_rows(patches.reshape(-1, patches.shape[-1]).astype(np.float64))
    return flat @ flat.T


def lost(patches: Float[np.ndarray, "h w D"], cell_px: float, most_seeds: int = 100) -> Box:
    """LOST: the seed is the patch with the fewest positive similarities.

    Of the `most_seeds` patches with the fewest, those like the seed join it; the object is all
    patches that are like these on average.
    """
    similar = cosines(patches)
    degree = (similar >= 0).sum(1)
    order = np.argsort(degree, kind="stable")
    seed = order[0]
    seeds = order[:most_seeds]
    seeds = seeds[similar[seed, seeds] >= 0]
    mask = similar[:, seeds].sum(1) >= 0
    mask[seed] = True
    rows, columns = patches.shape[:2]
    return region_box(mask.reshape(rows, columns), divmod(int(seed), columns), cell_px)


def tokencut(patches: Float[np.ndarray, "h w D"], cell_px: float, threshold: float = 0.2) -> Box:
    """TokenCut: the second smallest eigenvector of ``(D - W) x = lambda D x``, cut at its mean.

    W is 1 between patches whose cosine is above `threshold` and 1e-5 elsewhere. The object is the
    side of the patch with the largest absolute value.
    """
    weights = np.where(cosines(patches) > threshold, 1.0, WEAK_EDGE)
    degree = weights.sum(1)
    scale = 1 / np.sqrt(degree)
    # The same eigenvectors as of the symmetric I - D^-1/2 W D^-1/2, up to D^-1/2.
    laplacian = np.eye(len(weights)) - scale[:, None] * weights * scale
    _, vectors = np.linalg.eigh(laplacian)
    second = (scale * vectors[:, 1]).reshape(patches.shape[:2])
    place = centre_of(np.abs(second))
    above = second > second.mean()
    mask = above if above[place] else ~above
    return region_box(mask, place, cell_px)
