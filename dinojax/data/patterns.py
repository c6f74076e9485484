"""The textures and silhouettes that the objects of `dinojax.data.scenes` are made of."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

# Where a type error is ignored below, NumPy's stubs widen float32 times a Python float; NumPy does
# not.
Grid = npt.NDArray[np.float32]  # one number per pixel, [H, W]
Texture = Callable[[Grid, Grid, Generator], Grid]
Silhouette = Callable[[Grid, Grid, float], Grid]
TAU = 2 * math.pi

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
