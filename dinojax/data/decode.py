"""Encoded bytes to uint8 pixels, and pixels onto a canvas: the only image work done on the host.

JPEG goes through simplejpeg (libjpeg-turbo), TIFF and NPY through `tiff.py` and `npy.py`, all else
through Pillow. What is larger than the canvas is averaged down by area (OpenCV), and interpolated
where it hardly is. Of a JPEG that is far too large the inverse DCT computes 1/2, 3/8, 1/4 or 1/8 of
the size to begin with: that is free and saves the rest.
"""

import io
import math

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Int32, UInt8
from PIL import Image

from dinojax.data import exif, npy, tiff
from dinojax.data.channels import COLOUR_CHANNELS, Pixels, from_image, from_samples
from dinojax.data.records import Record

MAX_PIXELS = 2**26
"""Larger images are refused from their header alone: 192 MiB once decoded. With more channels than
three, fewer pixels fill as much."""

DCT_MARGIN = 1.5
"""How much larger than its final size a JPEG is decoded at least. The inverse DCT scales with a
sharper filter than the average by area; photographs end 1.4 to 1.7 grey levels from that average
(mean), and with a margin of 1 it would be 1.9 to 3.6."""
DCT_EIGHTHS = (8, 4, 3, 2, 1)
"""The sizes it may have. Those between a half and one are slower than decoding in full."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "AVIF")
"""What Pillow may try; every further codec is one more that hostile bytes can reach."""

INTERPOLATED = 4 / 3
"""How much too large an image may be to be interpolated linearly: 8 times as fast as the average by
area, from which photographs then end 0.4 to 1.1 grey levels (mean); at twice the size, 2.0. Its
integer arithmetic rounds downwards: by 0.13 grey levels on average."""

MOST_CHANNELS = 4
"""That OpenCV resizes at once."""

cv2.setNumThreads(1)  # images are decoded in threads of ours, one for each core

Scratch = UInt8[np.ndarray, " _"]


def decode_image(
    data: bytes,
    id: str,
    canvas_px: int | None = None,
    channels: int = 3,
    scratch: Scratch | None = None,
) -> Pixels:
    """Decode an image file to upright uint8 pixels [height, width, `channels`].

    JPEG, PNG, WebP, AVIF, GIF, BMP and PPM give RGB or, for one channel, luminance, whatever their
    colour space; transparency is laid over mid-grey; the first frame counts. TIFF and NPY also give
    any other number of channels, which must be theirs exactly. 16-bit samples keep their high byte.
    With `canvas_px`, no side is longer than that, as after `shrink`. With `scratch`
    (`make_scratch`) the pixels may lie in it: they last until it is used again.

    Raises:
        ValueError: unreadable or cut short, another format, more than `MAX_PIXELS`, or another
            number of channels; names `id`.
    """
    try:
        return _decode(data, canvas_px, channels, scratch)
    except Exception as error:  # the decoders raise a dozen types on damaged bytes
        raise ValueError(f"record {id!r} cannot be decoded: {_reason(error, data)}") from error


def read_image(
    record: Record, canvas_px: int, channels: int = 3, scratch: Scratch | None = None
) -> Pixels:
    """The record's pixels, no side longer than `canvas_px`; `scratch` as for `decode_image`.

    Raises:
        ValueError: bytes that cannot be decoded, or an array of other samples or channels.
    """
    if isinstance(record.image, bytes):
        return decode_image(record.image, record.id, canvas_px, channels, scratch)
    image = record.image
    try:
        if image.ndim != 3:
            raise ValueError("give [H, W, channels]")
        return shrink(from_samples(image, channels), canvas_px)
    except ValueError as error:
        kind = f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"record {record.id!r} holds {kind}: {error}") from error


def make_scratch(canvas_px: int, channels: int = 3) -> Scratch:
    """Memory for one thread to decode in, again and again.

    New memory for each image costs a quarter of the time of decoding it: the system has to clear
    every page before it hands it out. Images of more than four canvases still get their own.
    """
    return np.empty(4 * canvas_px**2 * channels, np.uint8)


def shrink(image: Pixels, canvas_px: int) -> Pixels:
    """Bring the longer side down to `canvas_px`; smaller images stay as they are."""
    height, width = image.shape[:2]
    return _resize(image, (height, width), fitted_size(height, width, canvas_px))


def to_canvas(image: Pixels, out: UInt8[np.ndarray, "C C _"]) -> Int32[np.ndarray, "2"]:
    """Lay the image at the top left of a canvas, black elsewhere; never stretched.

    Returns its (height, width) there; what does not fit is shrunk.
    """
    image = shrink(image, out.shape[0])
    height, width = image.shape[:2]
    out[:height, :width] = image
    out[:height, width:] = 0
    out[height:] = 0
    return np.array([height, width], np.int32)


def fitted_size(height: int, width: int, canvas_px: int) -> tuple[int, int]:
    """(height, width) after shrinking to a longer side of at most `canvas_px`, aspect kept."""
    longer = max(height, width)
    if longer <= canvas_px:
        return height, width
    return max(1, round(height * canvas_px / longer)), max(1, round(width * canvas_px / longer))


def _decode(data: bytes, canvas_px: int | None, channels: int, scratch: Scratch | None) -> Pixels:
    if data.startswith(b"\xff\xd8") and channels in COLOUR_CHANNELS:
        try:
            return exif.upright(
                _decode_jpeg(data, canvas_px, channels, scratch), exif.of_jpeg(data)
            )
        except ValueError:
            pass  # CMYK, or damage that libjpeg calls harmless: Pillow decides
    pixels = _decode_in_full(data, channels)
    return pixels if canvas_px is None else shrink(pixels, canvas_px)


def _decode_in_full(data: bytes, channels: int) -> Pixels:
    if data.startswith(tiff.MAGICS):
        return tiff.read_tiff(data, channels, _check_size)
    if data.startswith(npy.MAGIC):
        return from_samples(npy.read_npy(data, _check_size), channels)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(image.height, image.width)
        pixels = from_image(image, channels)
        return exif.upright(pixels, image.info.get("exif", b""))


def _decode_jpeg(
    data: bytes, canvas_px: int | None, channels: int, scratch: Scratch | None
) -> Pixels:
    """As stored, not yet upright."""
    height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    if space in ("CMYK", "YCCK"):
        raise ValueError("inks are for Pillow, which takes them for inverted as every writer does")
    height, width = int(height), int(width)
    _check_size(height, width)
    final = (height, width) if canvas_px is None else fitted_size(height, width, canvas_px)
    scaling = {
        "min_height": min(height, math.ceil(DCT_MARGIN * final[0])),
        "min_width": min(width, math.ceil(DCT_MARGIN * final[1])),
        "min_factor": 2.0,
    }
    rows, columns = map(int, simplejpeg.decode_jpeg_header(data, **scaling)[:2])
    fits = scratch is not None and rows * columns * channels <= scratch.size
    pixels = simplejpeg.decode_jpeg(
        data,
        "RGB" if channels == 3 else "GRAY",
        buffer=scratch if fits else None,
        **scaling,
    )
    eighths = next(n for n in DCT_EIGHTHS if -(-width * n // 8) == columns)
    part = height * eighths / 8, width * eighths / 8
    # The last row and column of a scaled image may lie mostly outside.
    return _resize(pixels[: round(part[0]), : round(part[1])], part, final)


def _resize(image: Pixels, part: tuple[int | float, int | float], size: tuple[int, int]) -> Pixels:
    """The image at the smaller `size` (height, width).

    `part` is how far the image reaches: up to half a pixel more or less than what is there of it.
    """
    if image.shape[:2] == size:
        return image
    fy, fx = size[0] / part[0], size[1] / part[1]
    kind = cv2.INTER_LINEAR if min(fy, fx) >= 1 / INTERPOLATED else cv2.INTER_AREA
    firsts = range(0, image.shape[-1], MOST_CHANNELS)
    bands = (np.ascontiguousarray(image[..., n : n + MOST_CHANNELS]) for n in firsts)
    small = [cv2.resize(band, None, fx=fx, fy=fy, interpolation=kind) for band in bands]
    return small[0].reshape(*size, -1) if len(small) == 1 else np.dstack(small)


def _check_size(height: int, width: int, channels: int = 3) -> None:
    if height * width * max(channels, 3) > 3 * MAX_PIXELS:
        limit = 3 * MAX_PIXELS // max(channels, 3)
        bands = f" of {channels} channels" if channels > 3 else ""
        raise ValueError(
            f"{width}x{height} pixels{bands} exceed the limit of {limit}; store a smaller copy"
        )


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"the bytes are no {', '.join((*FORMATS, 'TIFF', 'NPY'))} image"
    return str(error) or type(error).__name__
