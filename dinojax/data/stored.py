"""A record as `dinojax.prepare` stores it: every part an encoded file, large images smaller."""

import dataclasses
import io
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from dinojax.data.decode import read_image
from dinojax.data.maps import Map, decode_record, read_depth, read_segmentation
from dinojax.data.records import Record

NO_LIMIT = 2**30


class Stored(NamedTuple):
    """A record to be written and what it was made from."""

    record: Record
    pixels: UInt8[np.ndarray, "_ _ _"]  # upright
    shrunk: bool
    classes: int  # one more than the largest in the segmentation; 0: it has none


def encode_record(record: Record, max_side_px: int, quality: int) -> Stored:
    """The record with every part encoded.

    An encoded image whose longer side is at most `max_side_px` stays as it is, byte for byte and
    with its EXIF block. A larger one is turned upright, averaged down and stored as JPEG without
    one; arrays become PNG. Maps become PNG: segmentation grey (8 or 16 bit), depth TFDS's RGBA.

    Args:
        max_side_px: 0 leaves all images as they are.
        quality: of the JPEG, 1..100; colours are not subsampled.

    Raises:
        ValueError: an image or map that cannot be decoded, or classes outside 0..65535.
    """
    limit = max_side_px or NO_LIMIT
    pixels, segmentation, depth = decode_record(record, limit)
    # Shrunk images are exactly as long as the limit; so are those that just fit.
    shrunk = max(pixels.shape[:2]) == limit and _is_longer(record, limit)
    if shrunk:
        image = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "444")
    else:
        image = record.image if isinstance(record.image, bytes) else _png(record.image)
        segmentation, depth = read_segmentation(record), read_depth(record)
    stored = dataclasses.replace(
        record,
        image=image,
        segmentation=None if segmentation is None else _encode_segmentation(segmentation, record),
        depth=None if depth is None else _encode_depth(depth),
    )
    classes = 0 if segmentation is None else int(segmentation.max()) + 1
    return Stored(stored, pixels, shrunk, classes)


def _is_longer(record: Record, limit: int) -> bool:
    """Whether a side of the stored image is longer than `limit`."""
    if isinstance(record.image, np.ndarray):
        return max(record.image.shape[:2]) > limit
    try:
        with Image.open(io.BytesIO(record.image)) as opened:
            return max(opened.size) > limit
    except Image.UnidentifiedImageError:  # a format of the decoder's own
        return max(read_image(record, limit + 1).shape[:2]) > limit


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
