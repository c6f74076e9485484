"""Images from wherever they lie, at a size that a backbone takes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import UInt8
from PIL import Image

from dinojax.data.decode import decode_image, read_image
from dinojax.data.open import open_source
from dinojax.data.reading import read_record
from dinojax.data.source import Source
from dinojax.evaluation.monitor import evenly

CANVAS_PX = 4096
"""Longer sides are shrunk to this while they are read."""


class Named(NamedTuple):
    """An image with a name for people."""

    name: str
    pixels: UInt8[np.ndarray, "h w C"]


def read_squares(given: Sequence[str], limit: int, image_px: int, channels: int = 3) -> list[Named]:
    """Of files, folders and other sources; of a source at most `limit`, spread evenly.

    Each is made `square` as it is read. Unreadable records of a source are left out, and logged.

    Args:
        given: files, or words as of ``data.source``, as ``scenes:1000`` or ``tar:/data/x.tar``.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a file that is no image, no source, or nothing that can be read.
        dinojax.data.threads.StorageError: the storage fails.
    """
    found: list[Named] = []
    for one in given:
        if os.path.isfile(one) and ":" not in one and not one.endswith(".tar"):
            data = Path(one).read_bytes()
            pixels = decode_image(data, one, CANVAS_PX, channels)
            found.append(Named(Path(one).name, square(pixels, image_px)))
        else:
            found += from_source(open_source(one), limit, image_px, channels)
    if not found:
        raise ValueError("there are no images; give some with --data")
    return found


def from_source(source: Source, limit: int, image_px: int, channels: int = 3) -> list[Named]:
    """At most `limit` records of a source, spread evenly; see `read_squares`."""
    source, found = evenly(source, limit), []
    for i in range(len(source)):
        name = source.record_id(i)
        try:
            pixels = read_image(read_record(source, i), CANVAS_PX, channels=channels)
        except (ValueError, OSError) as error:
            logging.warning("%s is left out: %s", name, error)
            continue
        found.append(Named(name, square(pixels, image_px)))
    return found


def square(pixels: UInt8[np.ndarray, "h w C"], image_px: int) -> UInt8[np.ndarray, "S S C"]:
    """The largest centred square at `image_px`, as it is evaluated."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _resized(pixels[top : top + side, left : left + side], image_px, image_px)


def _resized(
    pixels: UInt8[np.ndarray, "h w C"], height: int, width: int
) -> UInt8[np.ndarray, "H W C"]:
    channels = [
        Image.fromarray(np.ascontiguousarray(pixels[..., c])).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for c in range(pixels.shape[-1])
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def shown(pixels: UInt8[np.ndarray, "h w C"]) -> UInt8[np.ndarray, "h w 3"]:
    """As a picture: of other than three channels the first alone, in grey."""
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, axis=-1)
