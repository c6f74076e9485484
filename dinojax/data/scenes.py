"""`scenes`: an embedded procedural dataset, so that a machine with no downloads can pretrain.

A scene shows several textured objects of one kind in front of a textured background. The class is
the kind: a pair (texture family, silhouette family). Nothing else looks at it: number, places,
sizes, tilts, periods, contrasts, colours and polarities of the objects, background and light. They
also differ between the objects of one scene, so what two crops of an image have in common is
foremost the class. Raw pixels, colour statistics and object geometry do not give it away, while
crops, flips, colour changes and blur preserve it (`tests/data/test_scenes.py` holds both claims to
numbers).

A record is a function of (seed, split, index) alone; `image_px` only changes its resolution.
Lengths are fractions of the image side, y points down, depths are metres. Bytes are identical
across processes on one machine; NumPy's SIMD sines may differ in the last bit between CPU families,
which can move a pixel by one level. Grids are float32, scalars Python floats: nothing is widened.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt
from numpy.random import Generator, Philox, SeedSequence

from dinojax.data.patterns import (
    BACKGROUNDS,
    SILHOUETTES,
    TAU,
    TEXTURES,
    Grid,
    Silhouette,
    Texture,
)
from dinojax.data.records import Record

SPLITS = ("train", "test")
# 5 and 6 are coprime: counting through both pools at once meets each of the 30 pairs once.
CLASSES = tuple(zip(6 * TEXTURES, 5 * SILHOUETTES, strict=True))

# ---- A scene. No draw has a size that depends on `image_px`: the same scene at every resolution.


def _rotate(x: Grid, y: Grid, angle_rad: float) -> tuple[Grid, Grid]:
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    return cos * x + sin * y, cos * y - sin * x  # type: ignore[return-value]


def _blend(x: Grid, y: Grid, corners: npt.NDArray[np.float32]) -> Grid:
    """Values given at the four corners of the image, ``[2, 2, ..]``, bilinear in between."""
    x, y = ((t + 0.5).reshape(*t.shape, *[1] * (corners.ndim - 2)) for t in (x, y))
    top, bottom = (corners[k, 0] + x * (corners[k, 1] - corners[k, 0]) for k in (0, 1))
    return top + y * (bottom - top)


def _colours(low: Sequence[float], high: Sequence[float], size: tuple[int, ...], rng: Generator):
    """Muted pairs (dark, step to light), ``[2, *size, 3]``: more grey than hue."""
    pairs = np.moveaxis(rng.uniform(low, high, (*size, 3, 2)).astype(np.float32), -1, 0)
    return pairs + 0.8 * (pairs.mean(axis=-1, keepdims=True) - pairs)


def _tone(
    x: Grid,
    y: Grid,
    texture: Texture,
    period: tuple[float, float],
    gain: tuple[float, float],
    rng: Generator,
) -> Grid:
    """The texture with a random period, phase, contrast and polarity; tones 0..1, [H, W, 1]."""
    length, contrast = rng.uniform(*period), rng.uniform(*gain)
    shift_u, shift_v = rng.uniform(0, 32, 2).tolist()
    wave = texture(x / length + shift_u, y / length + shift_v, rng)
    return np.clip(0.5 + (contrast if rng.random() < 0.5 else -contrast) * wave, 0, 1)[..., None]


def _light(x: Grid, y: Grid, relief: Grid, depth: Grid, rng: Generator) -> Grid:
    """Brightness factor: uneven light, from a random side on the relief, dimmer with distance."""
    uneven = _blend(x, y, rng.uniform(-0.7, 0.7, (2, 2)).astype(np.float32))
    side_x, side_y = rng.uniform(-1, 1, 2).tolist()
    slope_y, slope_x = np.gradient(relief, 1 / len(relief))
    shade = 1 + 0.35 * np.clip(side_x * slope_x + side_y * slope_y, -1, 1)
    return shade * np.exp(uneven - 0.03 * depth)


def _window(centre: tuple[float, float], reach: float, image_px: int) -> tuple[slice, slice]:
    """Rows and columns within `reach` of (y, x), clipped to the image."""
    first, last = (np.array(centre) + side * reach + 0.5 for side in (-1, 1))
    first = np.clip(first * image_px, 0, image_px).astype(int)
    last = np.clip(last * image_px + 1, 0, image_px).astype(int)
    return slice(first[0], last[0]), slice(first[1], last[1])


def _draw(
    texture: Texture, shape: Silhouette, image_px: int, rng: Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], Grid]:
    """One scene: image [H, W, 3], mask of the objects [H, W], depth [H, W]."""
    side = ((np.arange(image_px) + 0.5) / image_px - 0.5).astype(np.float32)
    x, y = np.meshgrid(side, side)

    # A plane in perspective: inverse depth is affine in the image; nearest, 3.3 m, at the bottom.
    near, tilt_x, tilt_y = rng.uniform((0.16, -0.05, 0), (0.24, 0.05, 0.08)).tolist()
    depth = 1 / (near + tilt_x * x + tilt_y * y)
    scenery = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    tone = _tone(*_rotate(x, y, rng.uniform(0, TAU)), scenery, (0.15, 0.3), (0.3, 0.7), rng)
    dark, step = (_blend(x, y, c) for c in _colours((0.0, 0.1), (0.6, 0.4), (2, 2), rng))
    image, relief = dark + step * tone, np.zeros_like(depth)

    # The objects: 6 to 9 cells of a shifted 3 x 3 lattice, the larger (nearer) over the smaller.
    count = rng.integers(6, 10)
    cells, radii = rng.permutation(9)[:count].tolist(), np.sort(rng.uniform(0.13, 0.19, count))
    middle_x, middle_y = rng.uniform(-1 / 6, 1 / 6, 2).tolist()
    for cell, radius in zip(cells, radii.tolist(), strict=True):
        offset_x, offset_y = rng.uniform(-0.06, 0.06, 2).tolist()
        x0, y0 = middle_x + (cell % 3 - 1) / 3 + offset_x, middle_y + (cell // 3 - 1) / 3 + offset_y
        tilt, girth = rng.uniform(-0.15, 0.15), rng.uniform(-1, 1)
        stretch, mirror = math.exp(rng.uniform(-0.2, 0.2)), 1 - 2 * int(rng.integers(2))
        box = _window((y0, x0), 1.6 * radius * max(stretch, 1 / stretch), image_px)
        u, v = _rotate(mirror * (x[box] - x0), y[box] - y0, tilt)
        # Distance to the outline in radii, positive inside; the edge is about one pixel soft.
        distance = shape(u / (radius * stretch), v / (radius / stretch), girth)
        cover = np.clip(image_px * radius * distance + 0.5, 0, 1)[..., None]
        dark, step = _colours((0.0, 0.25), (0.45, 0.55), (), rng)
        paint = dark + step * _tone(u, v, texture, (0.08, 0.12), (0.5, 1.0), rng)
        image[box] += cover * (paint - image[box])
        # Raised along its outline like a cushion; 2.4 m away or less.
        inside, rim = distance > 0, np.clip(4 * distance, 0, 1)
        relief[box] = np.where(inside, 0.1 * rim * (2 - rim), relief[box])
        depth[box] = np.where(inside, 0.3 / radius - relief[box], depth[box])

    image = image * _light(x, y, relief, depth, rng)[..., None]
    return np.clip(255 * image + 0.5, 0, 255).astype(np.uint8), relief > 0, depth


@dataclass(frozen=True)
class ScenesSource:
    """Random access to `num_images` scenes of one split, rendered on demand.

    Labels are uniform and independent of the index; splits and seeds are disjoint streams of one
    distribution. `image_px` is at least 32 (a texture period is 0.08..0.12 of it); `num_classes`
    takes the first 2..30 entries of `CLASSES`. Raises ValueError outside these ranges.
    """

    num_images: int
    image_px: int = 64
    num_classes: int = 10
    seed: int = 0
    split: str = "train"

    def __post_init__(self):
        if self.num_images < 1:
            raise ValueError(f"num_images={self.num_images} must be at least 1; use 10000")
        if self.image_px < 32:
            raise ValueError(f"image_px={self.image_px} must be at least 32; use 64")
        if not 2 <= self.num_classes <= len(CLASSES):
            raise ValueError(f"num_classes={self.num_classes} must be 2..{len(CLASSES)}; use 10")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative; use 0")
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r} must be one of {SPLITS}; use 'train'")

    @property
    def class_names(self) -> list[str]:
        """Names by label, e.g. "striped bow"."""
        return [f"{t.__name__[1:]} {s.__name__[1:]}" for t, s in CLASSES[: self.num_classes]]

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: SupportsIndex) -> Record:
        """The record at `index`. Raises IndexError outside 0..num_images - 1."""
        index = operator.index(index)
        name = self.record_id(index)
        rng, label = self._begin(index)
        image, mask, depth = _draw(*CLASSES[label], self.image_px, rng)
        return Record(image, name, label, segmentation=mask * np.uint8(1 + label), depth=depth)

    @property
    def known_labels(self) -> npt.NDArray[np.int32]:
        """Of all records; nothing is rendered."""
        return np.array([self._begin(index)[1] for index in range(len(self))], np.int32)

    def _begin(self, index: int) -> tuple[Generator, int]:
        """A scene's draws, of which the first is the label."""
        rng = Generator(Philox(SeedSequence([self.seed, SPLITS.index(self.split), index])))
        return rng, int(rng.integers(self.num_classes))

    def record_id(self, index: SupportsIndex) -> str:
        """Id of the record at `index`; nothing is rendered."""
        index = operator.index(index)
        if not 0 <= index < self.num_images:
            raise IndexError(f"index={index} must lie in 0..{self.num_images - 1}; use 0")
        return f"scenes/{self.split}/{index:06d}"
