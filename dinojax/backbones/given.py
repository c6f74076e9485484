"""What a model can be asked for: images of a kind and size that it takes, layers that it has."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def check_images(images: Any, channels: int, stride: int, name: str) -> None:
    """Whether these are arrays ``[B, H, W, channels]`` whose sides `stride` divides.

    Args:
        name: of the model, for the message.

    Raises:
        ValueError: they are not; says what would do.
    """
    shape, dtype = getattr(images, "shape", ()), getattr(images, "dtype", None)
    if dtype is None or dtype not in (np.uint8, np.float32):
        raise ValueError(
            f"images are {dtype or type(images).__name__}; give a uint8 array of 0..255, or a "
            "float32 array that is normalised already"
        )
    if len(shape) != 4 or shape[3] != channels or not shape[0]:
        raise ValueError(
            f"images have shape {list(shape)}; give [B, H, W, {channels}], one image as "
            "images[None]"
        )
    for side in shape[1:3]:
        if side % stride or not side:
            below, above = side // stride * stride, -(-side // stride) * stride
            working = f"{below} or {above}" if below else f"{stride}"
            raise ValueError(
                f"images are {shape[1]}x{shape[2]} px: {side} is not a multiple of {stride}, the "
                f"pixels between patches of {name}; use {working}"
            )


def places_of(layers: Sequence[int], count: int, name: str) -> tuple[int, ...]:
    """Layers counted from 0, of such as may be counted from the end.

    Raises:
        ValueError: none, or one that a model of `count` layers does not have.
    """
    if not layers or any(not -count <= layer < count for layer in layers):
        raise ValueError(
            f"layers={list(layers)}: {name} has layers 0..{count - 1}, or from the end -{count}..-1"
        )
    return tuple(int(layer) % count for layer in layers)
