"""Gaussian blur of nine taps as sums of shifted images.

As products with banded matrices the same blur has thirty times the operations, and in float32 each
of them costs a matrix unit three to six passes.
"""

import jax
import jax.numpy as jnp

from dinojax.typing import Array, Float

RADIUS = 4
"""Nine taps, the kernel size of DINO's augmentation whatever the crop size."""


def gaussian_blur(
    image: Float[Array, "H W C"], sigma: float | Float[Array, ""]
) -> Float[Array, "H W C"]:
    """Blur both axes, edges reflected without repetition; sigma in pixels, 0 changes nothing.

    torchvision `gaussian_blur` with kernel size 9.

    Raises:
        ValueError: the image is too small to be reflected.
    """
    taps = _taps(jnp.asarray(sigma, image.dtype))
    for axis, side_px in enumerate(image.shape[:2]):
        if side_px <= RADIUS:
            raise ValueError(
                f"a blur of {2 * RADIUS + 1} taps cannot reflect an image of {side_px} px; "
                f"use crops of at least {RADIUS + 1} px"
            )
        image = _convolve(image, taps, axis)
    return image


def _taps(sigma: Float[Array, ""]) -> Float[Array, " n"]:
    """Weights of the pixels at distance 0 to `RADIUS`, normalised over both sides."""
    # The floor keeps sigma = 0 finite: every tap but the central one is then exp(-huge) = 0.
    # Inverted here: XLA turns some quotients by a broadcast into products with the inverse and
    # others not, depending on the mesh.
    per_px = 1 / jnp.maximum(sigma, 1e-3)
    weights = jnp.exp(-0.5 * (jnp.arange(RADIUS + 1) * per_px) ** 2)
    return weights * (1 / (weights[0] + 2 * weights[1:].sum()))


def _convolve(
    image: Float[Array, "H W C"], taps: Float[Array, " n"], axis: int
) -> Float[Array, "H W C"]:
    width = [(RADIUS, RADIUS) if a == axis else (0, 0) for a in range(image.ndim)]
    padded = jnp.pad(image, width, mode="reflect")

    def shifted(by: int) -> Float[Array, "H W C"]:
        return jax.lax.slice_in_dim(padded, RADIUS + by, RADIUS + by + image.shape[axis], axis=axis)

    blurred = taps[0] * image
    for distance in range(1, RADIUS + 1):
        blurred += taps[distance] * (shifted(-distance) + shifted(distance))
    return blurred
