"""Colour distortions of float images in grey levels 0..255, each clipped to that range.

The operations and constants are Pillow's, which torchvision applies to PIL images. Pillow rounds to
uint8 after each and turns hues in an 8-bit HSV space; neither is imitated.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from dinojax.typing import Array, Bool, Float, Int, UInt8

WHITE = 255
LUMA = (0.299, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""Positions in the factors of `color_jitter`, and the values of its order."""
IDENTITY = (1.0, 1.0, 1.0, 0.0)


def normalise(
    images: Float[Array, "*b H W C"] | UInt8[Array, "*b H W C"],
    mean: Sequence[float],
    std: Sequence[float],
) -> Float[Array, "*b H W C"]:
    """Grey levels 0..255 to zero mean and unit deviation over these statistics of 0..1.

    In the dtype of the images; of integers the default float.
    """
    dtype = jnp.result_type(images, float)
    return (images / WHITE - jnp.asarray(mean, dtype)) / jnp.asarray(std, dtype)


def to_grey(image: Float[Array, "*b H W C"]) -> Float[Array, "*b H W 1"]:
    """Luma of RGB (ITU-R 601); the mean over any other number of channels."""
    if image.shape[-1] != len(LUMA):
        return image.mean(axis=-1, keepdims=True)
    red, green, blue = (image[..., i : i + 1] for i in range(3))
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def adjust_saturation(
    image: Float[Array, "H W C"], factor: float | Float[Array, ""]
) -> Float[Array, "H W C"]:
    """Blend with the grey image; 0 is grey, 1 the image."""
    return _blend(image, to_grey(image), factor)


def adjust_hue(
    image: Float[Array, "H W 3"], turn: float | Float[Array, ""]
) -> Float[Array, "H W 3"]:
    """Turn the hue by a fraction of the circle (0.5: opposite colour); value and chroma stay."""
    red, green, blue = (image[..., i] for i in range(3))
    value = image.max(axis=-1)
    chroma = value - image.min(axis=-1)
    safe = jnp.where(chroma == 0, 1, chroma)
    # Not `value == red`: a compiler may compute a pixel twice, and round it in two ways. Where two
    # channels are nearly equal, either answer gives nearly the same hue.
    sextant = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / safe,
        jnp.where(green >= blue, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    # A channel falls from the value by the chroma as the hue moves away from it (HSV to RGB in
    # closed form): 5, 3 and 1 turn red, green and blue to the origin of that distance.
    distance = sextant[..., None] + 6 * turn + jnp.asarray((5, 3, 1), image.dtype)
    distance -= 6 * jnp.floor(distance / 6)  # vectorises; `%` becomes a library call per pixel
    fall = jnp.minimum(distance, 4 - distance).clip(0, 1)
    return value[..., None] - chroma[..., None] * fall


def color_jitter(
    image: Float[Array, "H W C"],
    factors: Float[Array, "4"],
    order: Int[Array, "4"],
    *,
    content: Bool[Array, "H W 1"] | None = None,
) -> Float[Array, "H W C"]:
    """Brightness, contrast, saturation and hue in the given order (torchvision `ColorJitter`).

    The first three are one blend towards different references, so each of the four places computes
    one blend and one hue and selects: no branch, which `vmap` would turn into all four operations.
    Images without three channels have no hue to turn and no saturation.
    """
    for place in range(4):
        operation = order[place]
        blended = _jitter_blend(image, operation, factors, content)
        if image.shape[-1] == 3:
            blended = jnp.where(operation == HUE, adjust_hue(image, factors[HUE]), blended)
        image = blended
    return image


def solarize(image: Float[Array, "*b H W C"], threshold: float = 128) -> Float[Array, "*b H W C"]:
    """Invert the levels from `threshold` upwards."""
    return jnp.where(image >= threshold, WHITE - image, image)


def _jitter_blend(
    image: Float[Array, "H W C"],
    operation: Int[Array, ""],
    factors: Float[Array, "4"],
    content: Bool[Array, "H W 1"] | None,
) -> Float[Array, "H W C"]:
    grey = to_grey(image)
    reference = jnp.where(operation == SATURATION, grey, grey.mean(where=content))
    reference = jnp.where(operation == BRIGHTNESS, 0, reference)
    return _blend(image, reference, jnp.where(operation == HUE, 1, factors[operation]))


def _blend(
    image: Float[Array, "H W C"],
    reference: float | Float[Array, "..."],
    factor: float | Float[Array, ""],
) -> Float[Array, "H W C"]:
    return (factor * image + (1 - factor) * reference).clip(0, WHITE)
