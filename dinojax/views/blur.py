"""Gaussian blur as two banded matrix products, the form that suits matrix units."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.typing import Array, Float, Int

RADIUS = 4
"""Nine taps, the kernel size of DINO's augmentation whatever the crop size."""


def blur_matrix(
    side_px: int, sigma: float | Float[Array, ""], *, dtype: DTypeLike
) -> Float[Array, "S S"]:
    """``out = matrix @ line``: nine normalised Gaussian taps, edges reflected without repetition.

    torchvision `gaussian_blur` with kernel size 9. Each weight sums the taps that reach a pixel
    directly and by reflection at either edge. `sigma` in pixels; 0 gives the identity exactly.

    Raises:
        ValueError: the line is too short to be reflected.
    """
    if side_px <= RADIUS:
        raise ValueError(
            f"a blur of {2 * RADIUS + 1} taps cannot reflect an image of {side_px} px; "
            f"use crops of at least {RADIUS + 1} px"
        )
    position = jnp.arange(side_px)
    out, source = position[:, None], position[None, :]
    last = side_px - 1
    # The floor keeps sigma = 0 finite: every tap but the central one is then exp(-huge) = 0.
    # Inverted here: XLA turns some quotients by a broadcast into products with the inverse and
    # others not, depending on the mesh.
    per_px = 1 / jnp.maximum(jnp.asarray(sigma, dtype), 1e-3)
    # Neither edge pixel has a mirror image: the axis of reflection runs through it.
    taps = (
        _tap(source - out, per_px)
        + jnp.where(source > 0, _tap(-source - out, per_px), 0)
        + jnp.where(source < last, _tap(2 * last - source - out, per_px), 0)
    )
    return taps * (1 / taps.sum(axis=1, keepdims=True))


def gaussian_blur(
    image: Float[Array, "S S C"], sigma: float | Float[Array, ""]
) -> Float[Array, "S S C"]:
    """Blur both axes; `sigma` in pixels, 0 leaves the image as it is."""
    taps = blur_matrix(image.shape[0], sigma, dtype=image.dtype)
    exact = jax.lax.Precision.HIGHEST
    rows = jnp.einsum("yh,hwc->ywc", taps, image, precision=exact)
    return jnp.einsum("ywc,xw->yxc", rows, taps, precision=exact)


def _tap(offset: Int[Array, "S S"], per_px: Float[Array, ""]) -> Float[Array, "S S"]:
    weight = jnp.exp(-0.5 * (offset.astype(per_px.dtype) * per_px) ** 2)
    return jnp.where(jnp.abs(offset) <= RADIUS, weight, 0)
