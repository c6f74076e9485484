"""A record as `dinojax.prepare` stores it: every part an encoded file, large images smaller."""

import dataclasses
import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from dinojax.data.channels import COLOUR_CHANNELS
from dinojax.data.decode import read_image
from dinojax.data.maps import Map, decode_record, read_depth, read_segmentation
from dinojax.data.records import Record

NO_LIMIT = 2**30


@dataclass(frozen=True)
class Encoding:
    """How images are stored.

    Attributes:
        max_side_px: images with a longer side become smaller; 0: none do.
        quality: of the JPEG that they become, 1..100; colours are not subsampled.
        channels: that a run will read (`student.in_chans`).
    """

    max_side_px: int
    quality: int
    channels: int


class Stored(NamedTuple):
    """A record to be written and what it was made from."""

    record: Record
    pixels: UInt8[np.ndarray, "_ _ _"]  # upright
    shrunk: bool
    classes: int  # one more than the largest in the segmentation; 0: it has none


def encode_record(record: Record, encoding: Encoding) -> Stored:
    """The record with every part encoded.

    An encoded image that is not too large stays as it is, byte for byte and with its EXIF block. A
    larger one is turned upright, averaged down and stored without one: as JPEG where its channels
    are RGB or grey, as NPY otherwise. Arrays that are not too large keep their channels, and become
    PNG or NPY. Maps become PNG: segmentation grey (8 or 16 bit), depth TFDS's RGBA.

    Raises:
        ValueError: an image or map that cannot be decoded, an image of other channels, or classes
            outside 0..65535.
    """
    limit = encoding.max_side_px or NO_LIMIT
    pixels, segmentation, depth = decode_record(record, limit, encoding.channels)
    # Shrunk images are exactly as long as the limit; so are those that just fit.
    shrunk = max(pixels.shape[:2]) == limit and _is_longer(record, limit, encoding.channels)
    if shrunk:
        image = _encode_image(pixels, encoding.quality)
    else:
        image = record.image if isinstance(record.image, bytes) else _encode_image(record.image)
        segmentation, depth = read_segmentation(record), read_depth(record)
    stored = dataclasses.replace(
        record,
        image=image,
        segmentation=None if segmentation is None else _encode_segmentation(segmentation, record),
        depth=None if depth is None else _encode_depth(depth),
    )
    classes = 0 if segmentation is None else int(segmentation.max()) + 1
    return Stored(stored, pixels, shrunk, classes)


def _is_longer(record: Record, limit: int, channels: int) -> bool:
    """Whether a side of the stored image is longer than `limit`."""
    if isinstance(record.image, np.ndarray):
        return max(record.image.shape[:2]) > limit
    try:
        with Image.open(io.BytesIO(record.image)) as opened:
            return max(opened.size) > limit
    except Image.UnidentifiedImageError:  # a format of the decoder's own
        return max(read_image(record, limit + 1, channels).shape[:2]) > limit


def _encode_image(pixels: UInt8[np.ndarray, "_ _ _"], quality: int | None = None) -> bytes:
    """RGB and grey as JPEG, or without a `quality` as PNG; other channels as NPY.

    PNG would give two or four bands back as colour and transparency.
    """
    channels = pixels.shape[-1]
    if channels not in COLOUR_CHANNELS:
        return _npy(pixels)
    if quality is None:
        return _png(pixels if channels == 3 else pixels[..., 0])
    space = ("RGB", "444") if channels == 3 else ("GRAY", "Gray")
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, *space)


def _encode_segmentation(classes: Map, record: Record) -> bytes:
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= 2**16:
        raise ValueError(
            f"record {record.id!r} has classes {low}..{high} in its segmentation; use 0..65535"
        )
    return _png(classes.astype(np.uint8 if high < 2**8 else np.uint16))


def _encode_depth(metres: Map) -> bytes:
    """TFDS's way to keep float32 in a PNG: its four bytes are the four channels."""
    bits = np.ascontiguousarray(metres, np.float32)[..., None].view(np.uint8)
    return _png(bits)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _npy(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    return buffer.getvalue()
