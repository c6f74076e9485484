"""Encoded bytes to uint8 RGB, and RGB onto a canvas: the only image work done on the host.

JPEG goes through simplejpeg (libjpeg-turbo), everything else through Pillow. An image larger than
the canvas is first decoded at half, 3/8, 1/4 or 1/8 of its size where that is still large enough
(scaling inside the inverse DCT costs nothing and saves the rest), then averaged down by area.
"""

import io

import numpy as np
import simplejpeg
from jaxtyping import Int32, UInt8
from PIL import Image

from dinojax.data import exif
from dinojax.data.records import Record

MAX_PIXELS = 2**26
"""Larger images are refused from their header alone: 192 MiB once decoded."""

BACKGROUND = (128, 128, 128)
"""Mid-grey seen through transparent pixels: near the mean of natural images, so it adds no edge
stronger than the image's own, as white or black would."""

FORMATS = ("JPEG", "PNG", "WEBP")

Rgb = UInt8[np.ndarray, "_ _ 3"]  # [height, width, channel]


def decode_image(data: bytes, id: str, canvas_px: int | None = None) -> Rgb:
    """Decode JPEG, PNG or WebP to upright RGB.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; transparency is laid over `BACKGROUND`;
    the first frame of an animation counts. With `canvas_px`, a JPEG may come back smaller, its
    longer side still at least `canvas_px`.

    Raises:
        ValueError: unreadable or cut short, another format, or more than `MAX_PIXELS`; names `id`.
    """
    try:
        return _decode(data, canvas_px)
    except Exception as error:  # the decoders raise a dozen types on damaged bytes
        raise ValueError(f"record {id!r} cannot be decoded: {_reason(error, data)}") from error


def read_image(record: Record, canvas_px: int) -> Rgb:
    """The record's pixels, no side longer than `canvas_px`.

    Raises:
        ValueError: bytes that cannot be decoded, or an array that is not uint8 [H, W, 3].
    """
    if isinstance(record.image, bytes):
        return shrink(decode_image(record.image, record.id, canvas_px), canvas_px)
    image = record.image
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(
            f"record {record.id!r} holds {image.dtype} {list(image.shape)}; give uint8 [H, W, 3]"
        )
    return shrink(image, canvas_px)


def shrink(image: Rgb, canvas_px: int) -> Rgb:
    """Average down by area to a longer side of `canvas_px`; smaller images stay as they are."""
    height, width = fitted_size(image.shape[0], image.shape[1], canvas_px)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def to_canvas(
    image: Rgb, canvas_px: int, out: UInt8[np.ndarray, "C C 3"] | None = None
) -> tuple[UInt8[np.ndarray, "C C 3"], Int32[np.ndarray, "2"]]:
    """Image at the top left of a black canvas, never stretched, and its (height, width).

    `out` receives the pixels in place; it must be zero already.
    """
    image = shrink(image, canvas_px)
    canvas = np.zeros((canvas_px, canvas_px, 3), np.uint8) if out is None else out
    height, width = image.shape[:2]
    canvas[:height, :width] = image
    return canvas, np.array([height, width], np.int32)


def fitted_size(height: int, width: int, canvas_px: int) -> tuple[int, int]:
    """(height, width) after shrinking to a longer side of at most `canvas_px`, aspect kept."""
    longer = max(height, width)
    if longer <= canvas_px:
        return height, width
    return max(1, round(height * canvas_px / longer)), max(1, round(width * canvas_px / longer))


def _decode(data: bytes, canvas_px: int | None) -> Rgb:
    if data.startswith(b"\xff\xd8"):
        try:
            return _decode_jpeg(data, canvas_px)
        except ValueError:
            pass  # CMYK, or damage that libjpeg calls harmless: Pillow decides
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_pixels(image.height, image.width)
        return exif.upright(_to_rgb(image), image.info.get("exif", b""))


def _decode_jpeg(data: bytes, canvas_px: int | None) -> Rgb:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    if colours in ("CMYK", "YCCK"):
        raise ValueError("Pillow knows which writers store these inverted")
    height, width = int(height), int(width)
    _check_pixels(height, width)
    if canvas_px is not None:
        height, width = fitted_size(height, width, canvas_px)
    # Scaling by less than 2 is slower than decoding in full, hence min_factor.
    pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=2.0)
    marker = data.find(exif.MARKER)
    # A JPEG segment is at most 64 KiB long.
    return pixels if marker < 0 else exif.upright(pixels, data[marker : marker + 2**16])


def _to_rgb(image: Image.Image) -> Rgb:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image)
    return np.asarray(image.convert("RGB"))


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels exceed the limit of {MAX_PIXELS}; store a smaller copy"
        )


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"the bytes are no {', '.join(FORMATS)} image"
    return str(error) or type(error).__name__
