"""How torch resizes uint8 images, with the filter weights of `dinojax.views.resample`.

The reference's evaluation transform goes through it; the package resizes in floats only.
"""

import jax
import numpy as np

from dinojax.views.resample import WHITE, resample_weights


def resize_uint8(image: np.ndarray, out_hw: tuple[int, int]) -> np.ndarray:
    """``[H, W, C]`` resized bit for bit as by torch's antialiased bicubic of uint8 tensors.

    Each pass is a product of integers, horizontal first: weights of 16 bits, the result rounded to
    grey levels (PyTorch `UpSampleKernel.cpp`).
    """
    height, width = image.shape[:2]
    levels = image.astype(np.int64)
    for form, out_px, in_px in (
        ("xw,hwc->hxc", out_hw[1], width),
        ("yh,hwc->ywc", out_hw[0], height),
    ):
        with jax.enable_x64(True):
            exact = np.asarray(resample_weights(out_px, in_px, 0, in_px, dtype=float))
        assert exact.dtype == np.float64
        weights, bits = fixed_point(exact, width=16)
        total = np.einsum(form, weights, levels)
        levels = ((total + (1 << (bits - 1))) >> bits).clip(0, WHITE)
    return levels.astype(np.uint8)


def fixed_point(weights: np.ndarray, width: int) -> tuple[np.ndarray, int]:
    """Integers and their fractional bits: up to 22, as the largest weight permits."""
    bits = 0
    while bits < 22 and int(0.5 + weights.max() * 2 ** (bits + 1)) < 2 ** (width - 1):
        bits += 1
    return np.trunc(weights * 2**bits + np.copysign(0.5, weights)).astype(np.int64), bits
