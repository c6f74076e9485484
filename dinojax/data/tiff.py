"""TIFF: colour images through Pillow, any other number of bands through tifffile.

Pillow knows colour spaces, palettes, transparency and all compressions, but it refuses images of 2,
4 or more bands, and of RGB with extra bands it silently drops those. tifffile returns samples as
they are stored. LZW and ZSTD in such images need `imagecodecs` (the extra ``tiff``).
"""

import io
import math
import zlib
from collections.abc import Callable

import numpy as np
import tifffile
from PIL import Image

from dinojax.data.channels import COLOUR_CHANNELS, Pixels, from_image, from_samples
from dinojax.data.exif import TURNS

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Both byte orders of TIFF and BigTIFF."""

MIN_IS_WHITE, PALETTE = 0, 3
NATURAL_BANDS = {MIN_IS_WHITE: 1, 1: 1, 2: 3, PALETTE: 1, 5: 4, 6: 3, 8: 3}
"""By photometric interpretation: grey, grey, RGB, palette, CMYK, YCbCr, CIELAB."""

DEFLATE = (8, 32946)
COMPRESSIONS = (1, 5, *DEFLATE, 32773, 50000)
"""Of the samples that tifffile reads: none, LZW, Deflate, PackBits, ZSTD."""
INFLATION = 1032
"""The most that Deflate can expand (zlib's documentation)."""
HARMLESS_BYTES = 2**30
"""A strip that cannot inflate beyond this is not inflated once more to look."""


def read_tiff(data: bytes, channels: int, check_size: Callable[[int, int, int], None]) -> Pixels:
    """Upright pixels of the first page; `check_size(height, width, channels)` may refuse it.

    Raises:
        ValueError: damaged, of another type or compression, or without `channels` channels.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        sizes = page.imagelength, page.imagewidth, page.samplesperpixel
        if not all(isinstance(size, int) for size in sizes):
            raise ValueError("its header is damaged")  # tifffile hands on what it found: a tuple
        check_size(*sizes)
        if channels in COLOUR_CHANNELS and _is_colour(page):
            # Pillow also turns it upright.
            with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
                return from_image(image, channels)
        if page.is_tiled:  # tiles may be larger than the image
            check_size(page.tilelength, page.tilewidth, page.samplesperpixel)
        samples = _samples(page, data)
        turn = TURNS.get(_orientation(page))
    return from_samples(samples if turn is None else turn(samples), channels)


def orientation(data: bytes) -> int:
    """The orientation of the first page, 1..8; 1 if it says none."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return _orientation(file.pages.first)


def _orientation(page: tifffile.TiffPage) -> int:
    tag = page.tags.get("Orientation")
    return 1 if tag is None else tag.value


def _is_colour(page: tifffile.TiffPage) -> bool:
    """Whether Pillow understands all of its bands."""
    bits, kind, alpha = page.bitspersample, page.photometric, len(page.extrasamples)
    if page.sampleformat != 1 or bits not in (1, 2, 4, 8, 16):
        return False
    if bits == 16 and (kind == MIN_IS_WHITE or page.planarconfig != 1):
        return False  # Pillow forgets to invert the one and mixes up the other
    transparent = alpha == 0 or (alpha == 1 and page.extrasamples[0] in (1, 2))
    return transparent and page.samplesperpixel - alpha == NATURAL_BANDS.get(kind)


def _samples(page: tifffile.TiffPage, data: bytes) -> np.ndarray:
    """[H, W] or [H, W, N] as stored, but with 0 for black."""
    if (
        page.dtype is None
        or page.dtype not in (np.uint8, np.uint16)
        or page.bitspersample not in (8, 16)
    ):
        kind = page.dtype or f"{page.bitspersample}-bit"
        raise ValueError(f"it holds {kind} samples; store uint8 or uint16")
    if page.photometric == PALETTE or page.imagedepth != 1:
        raise ValueError("palettes and volumes have no bands; store a plain 2-D image")
    if page.compression not in COMPRESSIONS:
        raise ValueError(f"its compression {page.compression!r} is not supported; use Deflate")
    _check_segments(page, data, page.dtype.itemsize)
    try:
        samples = page.asarray(squeeze=False, maxworkers=1)
    except KeyError as error:  # tifffile's word for a codec that it lacks
        raise ValueError(f"{error.args[0]}: pip install 'dinojax[tiff]'") from error
    # [planes, depth, H, W, bands] with bands either interleaved or in planes
    planes, _, _, _, bands = samples.shape
    samples = (
        samples[0, 0] if bands > 1 or planes == 1 else np.moveaxis(samples[:, 0, ..., 0], 0, -1)
    )
    return ~samples if page.photometric == MIN_IS_WHITE else samples


def _check_segments(page: tifffile.TiffPage, data: bytes, itemsize: int) -> None:
    """Every strip or tile is there, and none inflates to more than its share.

    tifffile takes missing ones for black and inflates without a limit.
    """
    extents = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if len(extents) < math.prod(page.chunked) or any(
        size == 0 or start + size > len(data) for start, size in extents
    ):
        raise ValueError("the file is truncated")
    if page.compression not in DEFLATE or page.dtype is None:
        return
    share = math.prod(page.chunks) * itemsize
    for start, size in extents:
        if size * INFLATION > HARMLESS_BYTES:
            inflate = zlib.decompressobj()
            if len(inflate.decompress(data[start : start + size], share + 1)) > share:
                raise ValueError("a strip inflates to more than its share; write the file again")
