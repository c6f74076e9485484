"""EXIF orientation: which way up a camera's pixels are.

Read by hand because Pillow parses the whole block, warns about damage in fields nobody asked for,
and takes longer than decoding a small JPEG.
"""

import struct
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

MARKER = b"Exif\0\0"
"""Opens the block in a JPEG and in some other files."""

APP1, START_OF_SCAN = 0xE1, 0xDA
"""The segment that holds it, and the one after which pixels follow."""

ORIENTATION_TAG = 0x0112
BYTE_ORDERS = {b"II": "<", b"MM": ">"}

# Orientation -> what turns the stored pixels upright; 1 is upright already.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image[::-1].swapaxes(0, 1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image[:, ::-1].swapaxes(0, 1),
}
TRANSPOSING = frozenset({5, 6, 7, 8})
"""Orientations in which what is stored as height is the width."""


def upright(image: UInt8[np.ndarray, "_ _ _"], exif: bytes) -> UInt8[np.ndarray, "_ _ _"]:
    """Turn `image` as its EXIF block says; without a sound block, leave it alone."""
    turn = TURNS.get(orientation(exif))
    return image if turn is None else np.ascontiguousarray(turn(image))


def of_jpeg(data: bytes) -> bytes:
    """The EXIF block of a JPEG, empty if it has none.

    Only the segments before the pixels are looked at: the same letters elsewhere, as in an embedded
    preview, say nothing of this image.
    """
    position = 2
    while data[position : position + 1] == b"\xff" and position + 4 <= len(data):
        marker, size = struct.unpack_from(">BH", data, position + 1)
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == START_OF_SCAN:
            break
        if marker == APP1 and data.startswith(MARKER, position + 4):
            return data[position + 4 : position + 2 + size]
        position += 2 + size
    return b""


def orientation(exif: bytes) -> int:
    """The orientation in an EXIF block, 1..8 by the standard; 1 if there is none to be found."""
    block = exif.removeprefix(MARKER)
    order = BYTE_ORDERS.get(block[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            # tag, type, number of values, the first value
            tag, _, _, value = struct.unpack_from(order + "HHIH", block, entry)
            if tag == ORIENTATION_TAG:
                return value
    except struct.error:  # an offset beyond the end
        pass
    return 1
