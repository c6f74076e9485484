"""A checksum of features: whether two copies of a model compute the same, to the bit."""

import hashlib

import numpy as np

from dinojax.backbones.model import Model

GRID = (2, 3)
"""Patches of the image, of different sides so that swapped axes show."""


def feature_checksum(model: Model) -> str:
    """16 hex digits of the features of one fixed synthetic image.

    CLS, registers and patches after the final norm, as float32. Only comparable between models on
    the same devices and mesh with the same version of JAX: elsewhere the last bits differ.
    """
    rows, columns = (patches * model.stride for patches in GRID)
    found = model.features(probe_image(rows, columns, model.images.channels))
    digest = hashlib.sha256()
    for name in ("cls", "registers", "patches"):
        digest.update(np.ascontiguousarray(model.fetch(found[name])).tobytes())
    return digest.hexdigest()[:16]


def probe_image(rows: int, columns: int, channels: int) -> np.ndarray:
    """``[1, rows, columns, channels]`` uint8, another pattern in each channel."""
    y, x, c = np.ogrid[:rows, :columns, :channels]
    return ((7 * y + 11 * x + 5 * y * x // 16 + 83 * c) % 256).astype(np.uint8)[None]
