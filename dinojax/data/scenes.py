"""`scenes`: an embedded procedural dataset, so that a machine with no downloads can pretrain.

A scene is a textured object in front of a textured background, lit from a random side. The class
is the pair (texture family, silhouette family) of the object, and nothing else: pose, size, place,
period, contrast, colours, polarity, light, background and a distractor are drawn without looking
at it. Raw pixels, colour statistics and object geometry therefore do not give the class away,
while crops, flips, colour changes and blur preserve it (`tests/data/test_scenes.py` holds both
claims to numbers).

A record is a function of (seed, split, index) alone; `image_px` only changes its resolution.
Lengths are fractions of the image side, y points down, depths are metres. Bytes are identical
across processes on one machine; NumPy's SIMD sines may differ in the last bit between CPU families,
which can move a pixel by one level. Grids are float32, scalars Python floats: nothing is widened.
"""

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt
from numpy.random import Generator, Philox, SeedSequence

from dinojax.data.records import Record

# Where a type error is ignored below, NumPy's stubs widen float32 times a Python float; NumPy does
# not.
Grid = npt.NDArray[np.float32]  # one number per pixel, [H, W]
Rgb = npt.NDArray[np.float32]  # [H, W, 3], 0..1
Texture = Callable[[Grid, Grid, Generator], Grid]
Silhouette = Callable[[Grid, Grid, float], Grid]
TAU = 2 * math.pi
SPLITS = ("train", "test")

# ---- Textures: (u, v) in periods -> tone, about -1..1 with mean near 0. The object families share
# ---- one dominant frequency; what tells them apart is the directions in which it occurs.


def _waves(u: Grid, v: Grid, waves: Iterable[Sequence[float]]) -> Grid:
    """The sum of plane waves (cycles along u, cycles along v, phase in cycles)."""
    terms = (np.cos(TAU * (a * u + b * v + phase)) for a, b, phase in waves)
    return sum(terms, np.zeros_like(u))


def _striped(u: Grid, v: Grid, rng: Generator) -> Grid:
    """Parallel bands: one direction."""
    return np.sin(TAU * u)


def _checked(u: Grid, v: Grid, rng: Generator) -> Grid:
    """A chessboard: two directions, each cut by the other."""
    return 2 * np.sin(TAU * math.sqrt(0.5) * u) * np.sin(TAU * math.sqrt(0.5) * v)


def _dotted(u: Grid, v: Grid, rng: Generator) -> Grid:
    """A hexagonal lattice of discs: three directions, 60 degrees apart."""
    return _waves(u, v, ((math.cos(a), math.sin(a), 0) for a in (0, TAU / 6, TAU / 3))) - 0.35


def _zigzag(u: Grid, v: Grid, rng: Generator) -> Grid:
    """Bands folded into chevrons: two directions, never at the same point."""
    return np.sin(TAU * (u + 2 * np.abs(0.5 * v % 1 - 0.5)))


def _maze(u: Grid, v: Grid, rng: Generator) -> Grid:
    """Winding corridors: every direction, random phases."""
    angles = (k * TAU / 16 for k in range(8))
    return 0.5 * _waves(u, v, ((math.cos(a), math.sin(a), rng.random()) for a in angles))


def _clouds(u: Grid, v: Grid, rng: Generator) -> Grid:
    """Background: soft blotches, several periods wide."""
    return 0.5 * _waves(u, v, rng.uniform((-0.35, -0.35, 0), (0.35, 0.35, 1), (4, 3)).tolist())


def _marble(u: Grid, v: Grid, rng: Generator) -> Grid:
    """Background: broad veins, bent by clouds."""
    return np.sin(TAU * 0.4 * u + 2 * _clouds(u, v, rng))


def _mosaic(u: Grid, v: Grid, rng: Generator) -> Grid:
    """Background: square tiles, one random tone each."""
    tones = rng.uniform(-1, 1, (32, 32)).astype(np.float32)
    return tones[np.floor(u).astype(np.int32) & 31, np.floor(v).astype(np.int32) & 31]


def _grain(u: Grid, v: Grid, rng: Generator) -> Grid:
    """Background: tiles a third of a period wide."""
    return _mosaic(3 * u, 3 * v, rng)


# ---- Silhouettes: (x, y) in radii, girth -1..1 -> distance to the outline, positive inside. All
# ---- have about the area of a unit disc and fill about half of their bounding box: no clue there.


def _bow(x: Grid, y: Grid, girth: float) -> Grid:
    """A bow tie: two trapezia that meet in a waist 0.58 to 1.18 wide."""
    x, y = np.abs(x), np.abs(y)
    return np.minimum(1.15 - x, 0.44 + 0.15 * girth + 0.43 * x - y)


def _triangle(x: Grid, y: Grid, girth: float) -> Grid:
    """An equilateral triangle of inradius 0.78, its corners cut off at 1.35 to 1.55."""
    edges = 0.78 - np.maximum(y, math.sqrt(0.75) * np.abs(x) - 0.5 * y)
    return np.minimum(edges, 1.45 - 0.1 * girth - np.hypot(x, y))


def _star(x: Grid, y: Grid, girth: float) -> Grid:
    """Five points of radius 1.35, the notches between them at 0.47 to 0.71."""
    notch = 0.59 + 0.12 * girth
    point = 2 * np.abs(5 / TAU * np.arctan2(y, x) % 1 - 0.5)
    return 0.5 * (notch + (1.35 - notch) * point - np.hypot(x, y))  # type: ignore[return-value]


def _ring(x: Grid, y: Grid, girth: float) -> Grid:
    """An annulus around radius 0.93, 0.4 to 0.68 wide."""
    return 0.27 + 0.07 * girth - np.abs(np.hypot(x, y) - 0.93)  # type: ignore[return-value]


def _cross(x: Grid, y: Grid, girth: float) -> Grid:
    """Two bars, 2.4 long and 0.6 to 1.0 wide."""
    x, y = np.abs(x), np.abs(y)
    return np.minimum(0.4 + 0.1 * girth - np.minimum(x, y), 1.2 - np.maximum(x, y))


def _crescent(x: Grid, y: Grid, girth: float) -> Grid:
    """A disc of radius 1.25; a bite of radius 0.8 is missing, 0.6 to 0.9 off its centre."""
    return np.minimum(1.25 - np.hypot(x, y), np.hypot(x - 0.75 - 0.15 * girth, y) - 0.8)


BACKGROUNDS: tuple[Texture, ...] = (_clouds, _marble, _mosaic, _grain)
TEXTURES: tuple[Texture, ...] = (_striped, _checked, _dotted, _zigzag, _maze)
SILHOUETTES: tuple[Silhouette, ...] = (_bow, _triangle, _star, _ring, _cross, _crescent)
# 5 and 6 are coprime: counting through both pools at once meets each of the 30 pairs once.
CLASSES = tuple(zip(6 * TEXTURES, 5 * SILHOUETTES, strict=True))

# ---- A scene. No draw has a size that depends on `image_px`: the same scene at every resolution.


def _rotate(x: Grid, y: Grid, angle_rad: float) -> tuple[Grid, Grid]:
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    return cos * x + sin * y, cos * y - sin * x  # type: ignore[return-value]


def _paint(x: Grid, y: Grid, texture: Texture, rng: Generator) -> Rgb:
    """The texture, turned and scaled, between two colours that differ in every channel."""
    u, v = _rotate(x, y, rng.uniform(0, TAU))
    period, shift_u, shift_v, gain = rng.uniform((0.10, 0, 0, 0.3), (0.16, 32, 32, 1.0)).tolist()
    wave = texture(u / period + shift_u, v / period + shift_v, rng)
    tone = np.clip(0.5 + (gain if rng.random() < 0.5 else -gain) * wave, 0, 1)
    dark, step = rng.uniform((0, 0.25), (0.45, 0.55), (3, 2)).astype(np.float32).T
    return dark + step * tone[..., None]


def _place(x: Grid, y: Grid, shape: Silhouette, radius: float, rng: Generator) -> Grid:
    """Distance to the outline of a shape, in radii, at a random place, pose, stretch and girth."""
    spread = 0.57 - radius  # the larger, the nearer to the centre
    x0, y0, angle_rad = rng.uniform((-spread, -spread, 0), (spread, spread, TAU)).tolist()
    x, y = _rotate(x - x0, y - y0, angle_rad)
    stretch, girth = math.exp(rng.uniform(-0.4, 0.4)), rng.uniform(-1, 1)
    return shape(x / (radius * stretch), y / (radius / stretch), girth)


def _over(below: Rgb, above: Rgb, distance: Grid) -> Rgb:
    """Lay `above` over `below` where `distance` is positive; the edge is about one pixel soft."""
    cover = np.clip(len(distance) * distance + 0.5, 0, 1)[..., None]
    return below + cover * (above - below)  # type: ignore[return-value]


def _light(relief: Grid, depth: Grid, rng: Generator) -> Grid:
    """Brightness factor: light from a random side on the relief, dimmer with distance."""
    side_x, side_y = rng.uniform(-1, 1, 2).tolist()
    slope_y, slope_x = np.gradient(relief, 1 / len(relief))
    return (1 + 0.35 * np.clip(side_x * slope_x + side_y * slope_y, -1, 1)) * np.exp(-0.03 * depth)


def _draw(
    texture: Texture, shape: Silhouette, image_px: int, rng: Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], Grid]:
    """One scene: image [H, W, 3], object mask [H, W], depth [H, W]."""
    side = ((np.arange(image_px) + 0.5) / image_px - 0.5).astype(np.float32)
    x, y = np.meshgrid(side, side)

    # A plane in perspective: inverse depth is affine in the image; nearest, 3.3 m, at the bottom.
    near, tilt_x, tilt_y = rng.uniform((0.16, -0.05, 0), (0.24, 0.05, 0.08)).tolist()
    depth = 1 / (near + tilt_x * x + tilt_y * y)
    scenery, scrap = (BACKGROUNDS[k] for k in rng.integers(len(BACKGROUNDS), size=2))
    image = _paint(x, y, scenery, rng)

    # The distractor: a small shape of any family, painted flat on the plane.
    radius, decoy = rng.uniform(0.08, 0.16), SILHOUETTES[rng.integers(len(SILHOUETTES))]
    distance = _place(x, y, decoy, radius, rng)
    image = _over(image, _paint(x, y, scrap, rng), radius * distance)

    # The object: raised along its outline like a cushion; larger when nearer, at 3.2 m or less.
    radius = rng.uniform(0.25, 0.42)
    distance = _place(x, y, shape, radius, rng)
    image = _over(image, _paint(x, y, texture, rng), radius * distance)
    mask, rim = distance > 0, np.clip(4 * distance, 0, 1)
    relief = 0.1 * rim * (2 - rim)
    depth = np.where(mask, rng.uniform(0.5, 0.8) / radius - relief, depth)

    image = image * _light(relief, depth, rng)[..., None]
    return np.clip(255 * image + 0.5, 0, 255).astype(np.uint8), mask, depth


@dataclass(frozen=True)
class ScenesSource:
    """Random access to `num_images` scenes of one split, rendered on demand.

    Labels are uniform and independent of the index; splits and seeds are disjoint streams of one
    distribution. `image_px` is at least 32 (a texture period is 0.10..0.16 of it); `num_classes`
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
        rng = Generator(Philox(SeedSequence([self.seed, SPLITS.index(self.split), index])))
        label = int(rng.integers(self.num_classes))
        image, mask, depth = _draw(*CLASSES[label], self.image_px, rng)
        return Record(image, name, label, segmentation=mask * np.uint8(1 + label), depth=depth)

    def record_id(self, index: SupportsIndex) -> str:
        """Id of the record at `index`; nothing is rendered."""
        index = operator.index(index)
        if not 0 <= index < self.num_images:
            raise IndexError(f"index={index} must lie in 0..{self.num_images - 1}; use 0")
        return f"scenes/{self.split}/{index:06d}"
