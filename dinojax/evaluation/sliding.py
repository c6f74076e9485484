"""Dense predictions of whole images from overlapping windows, at the images' own pixels.

The published protocol (MMSegmentation's slide mode): windows of the resized image at a fixed
stride, the last one flush with the end; outputs of patches interpolated to the window's pixels,
averaged where windows overlap, and interpolated once more to the pixels of the ground truth.

All of it is linear, and a grid of windows covers rows and columns apart: so it is one matrix per
axis, from the patches of all windows to the pixels of the image, and no map of a resized image is
ever held.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dinojax.kernels.resize import resize_weights
from dinojax.typing import Float


@dataclass(frozen=True)
class Windows:
    """How whole images are seen.

    Attributes:
        window_px: side of the windows.
        stride_px: between them.
        short_px: the shorter side of the image at scale 1.
        scales: whose class probabilities are averaged.
        flip: average with those of the mirror image, too.
    """

    window_px: int = 512
    stride_px: int = 341
    short_px: int = 512
    scales: Sequence[float] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        window_starts(self.window_px, self.window_px, self.stride_px)  # refuses some strides


class Look(NamedTuple):
    """A whole image at one scale, mirrored or not, and the grid of windows that covers it."""

    resized: tuple[int, int]
    tops: list[int]
    lefts: list[int]
    flip: bool


def looks(hw: tuple[int, int], windows: Windows) -> list[Look]:
    """All that an image of this height and width is seen by."""
    found, side = [], windows.window_px
    for scale in windows.scales:
        short = int(windows.short_px * scale + 0.5)
        rows, columns = (int(length * short / min(hw) + 0.5) for length in hw)
        tops, lefts = (window_starts(n, side, windows.stride_px) for n in (rows, columns))
        found.append(Look((rows, columns), tops, lefts, flip=False))
        if windows.flip:  # windows start at the left of the mirror image
            mirrored = [max(columns - side, 0) - left for left in reversed(lefts)]
            found.append(Look((rows, columns), tops, mirrored, flip=True))
    return found


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows over `length` pixels; one window, if they fit into it.

    Raises:
        ValueError: a `stride` that leaves gaps, or does not move.
    """
    if not 0 < stride <= window:
        raise ValueError(f"stride={stride} must lie in 1..{window}, the window; use {window}")
    count = max(-(-(length - window) // stride), 0) + 1
    return [max(min(i * stride, length - window), 0) for i in range(count)]


def join_matrix(
    length: int, resized: int, starts: list[int], window: int, cells: int
) -> Float[np.ndarray, "length windows_cells"]:
    """Along one axis: how much of each window's patch is in each of an image's `length` pixels.

    Args:
        resized: pixels that the image was resized to, with windows of `window` pixels at `starts`.
        cells: patches in a window.
    """
    upsampled = resize_weights(cells, window, "bilinear", antialias=False)
    covered = np.zeros((resized, len(starts), cells))
    for i, start in enumerate(starts):
        inside = upsampled[: resized - start]  # what is beyond the image is padding
        covered[start : start + window, i] = inside
    windows = covered.any(2).sum(1)
    joined = covered.reshape(resized, -1) / windows[:, None]
    return resize_weights(resized, length, "bilinear", antialias=False) @ joined
