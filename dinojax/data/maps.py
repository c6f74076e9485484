"""Segmentation and depth that go with an image: decoded, and moved as the image is moved.

Maps are stored like the image's pixels: where the image's EXIF block says how to turn it, they
turn with it, and where it is shrunk to a canvas, they are sampled at the nearest pixel. Averages of
class numbers mean nothing, and averages of depth across an edge are surfaces that do not exist.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import UInt8
from PIL import Image

from dinojax.data import exif, npy, tiff
from dinojax.data.decode import MAX_PIXELS, read_image
from dinojax.data.records import Record

MILLIMETRE = np.float32(1e-3)

Map = npt.NDArray[np.generic]  # one value per pixel, [H, W]


class Pixels(NamedTuple):
    """A record's image and maps, of one height and width."""

    image: UInt8[np.ndarray, "H W _"]
    segmentation: Map | None
    depth: Map | None


def decode_record(record: Record, canvas_px: int, channels: int = 3) -> Pixels:
    """Image and maps: upright, of one size, no side above `canvas_px`.

    The image is `decode.read_image`'s, with `channels`.

    Raises:
        ValueError: bytes that cannot be decoded, an image of other channels, or a map of other
            proportions than the image.
    """
    image = read_image(record, canvas_px, channels)
    if record.segmentation is None and record.depth is None:
        return Pixels(image, None, None)
    turn = orientation_of(record.image) if isinstance(record.image, bytes) else 1
    height, width = image.shape[:2]

    def follow(part: str, map: Map | None) -> Map | None:
        try:
            return None if map is None else move_map(map, turn, height, width)
        except ValueError as error:
            raise ValueError(f"record {record.id!r}: its {part} {error}") from None

    return Pixels(
        image=image,
        segmentation=follow("segmentation", read_segmentation(record)),
        depth=follow("depth", read_depth(record)),
    )


def orientation_of(image: bytes) -> int:
    """The EXIF orientation of an encoded image, 1..8; 1 if it has none."""
    if image.startswith(tiff.MAGICS):  # no block, but the same tags
        return tiff.orientation(image)
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return exif.orientation(opened.info.get("exif", b""))
    except Image.UnidentifiedImageError:
        return 1


def move_map(map: Map, orientation: int, height: int, width: int) -> Map:
    """A map as stored, turned upright and sampled at the nearest pixel to [height, width].

    Raises:
        ValueError: its proportions are not those of the image.
    """
    turn = exif.TURNS.get(orientation)
    map = map if turn is None else turn(map)
    rows, columns = map.shape
    # Shrinking rounds each side by up to half a pixel.
    if abs(rows * width - columns * height) > max(rows, columns):
        raise ValueError(
            f"is {columns}x{rows} upright, the image {width}x{height}; give a map of the image's "
            "proportions, stored like its pixels"
        )
    nearest = np.ix_(_centres(rows, height), _centres(columns, width))
    return np.ascontiguousarray(map[nearest])


def read_segmentation(record: Record) -> Map | None:
    """Classes per pixel as stored, integers [H, W].

    Raises:
        ValueError: bytes that are no grey or palette PNG (8 or 16 bit) and no integers in NPY.
    """
    return _read(record, "segmentation", record.segmentation, _segmentation)


def read_depth(record: Record) -> Map | None:
    """Metres per pixel as stored, float32 [H, W]; 0 = unknown.

    NPY holds metres, 16-bit grey PNG millimetres, RGBA PNG the bits of float32 metres (TFDS).

    Raises:
        ValueError: bytes that are none of these.
    """
    return _read(record, "depth", record.depth, _depth)


def _centres(stored: int, wanted: int) -> npt.NDArray[np.int64]:
    """The stored row below the middle of each wanted one."""
    return (2 * np.arange(wanted) + 1) * stored // (2 * wanted)


def _read(
    record: Record, part: str, value: np.ndarray | bytes | None, decode: Callable[[object], Map]
) -> Map | None:
    if value is None:
        return None
    try:
        map = decode(_load(value) if isinstance(value, bytes) else value)
    except Exception as error:  # decoders raise a dozen types on damaged bytes
        raise ValueError(f"record {record.id!r}: its {part} cannot be read: {error}") from error
    if map.ndim == 3 and map.shape[-1] == 1:
        map = map[..., 0]
    if map.ndim != 2 or 0 in map.shape:
        raise ValueError(f"record {record.id!r}: its {part} is {list(map.shape)}; give [H, W]")
    return map


def _load(data: bytes) -> np.ndarray | Image.Image:
    if data.startswith(npy.MAGIC):
        return np.load(io.BytesIO(data), allow_pickle=False)
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])  # JPEG would blur class numbers
    except Image.UnidentifiedImageError:
        raise ValueError("the bytes are neither PNG nor NPY") from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} exceeds {MAX_PIXELS} pixels")
        if {"L;2", "L;4"} & {tile.args for tile in image.tile}:
            raise ValueError("2- and 4-bit grey is scaled to 8 bits by decoders; store 8-bit grey")
        image.load()
        return image


def _segmentation(value: object) -> Map:
    if isinstance(value, Image.Image):
        if value.mode not in ("1", "L", "P") and not value.mode.startswith("I"):
            raise ValueError(f"{value.mode} pixels are no class numbers; use grey or palette")
        value = np.asarray(value)
    assert isinstance(value, np.ndarray)
    if value.dtype == bool:
        return value.astype(np.uint8)
    if value.dtype.kind not in "iu":
        raise ValueError(f"{value.dtype} are no class numbers; use integers")
    return value


def _depth(value: object) -> Map:
    if isinstance(value, Image.Image):
        if value.mode == "RGBA":
            return np.ascontiguousarray(np.asarray(value)).view(np.float32)
        if not value.mode.startswith("I"):
            raise ValueError(f"{value.mode} pixels are no depth; use 16-bit grey millimetres")
        return np.asarray(value).astype(np.float32) * MILLIMETRE
    assert isinstance(value, np.ndarray)
    if value.dtype.kind != "f":
        raise ValueError(f"{value.dtype} are no metres; use float32")
    return value.astype(np.float32)
