"""How large images are as they are stored, by their headers; nothing is decoded for it."""

import io
from typing import Any

import numpy as np
import simplejpeg
import tifffile
from PIL import Image

from dinojax.data import exif, npy, tiff
from dinojax.data.decode import FORMATS
from dinojax.data.records import Record
from dinojax.data.source import Source


def stored_size(record: Record) -> tuple[int, int]:
    """(height, width) of a record's image, turned upright.

    Raises:
        ValueError: a header that cannot be read; names the record.
    """
    if not isinstance(record.image, bytes):
        return record.image.shape[0], record.image.shape[1]
    try:
        (height, width), orientation = _read_header(record.image)
    except Exception as error:  # the decoders raise a dozen types on damaged bytes
        raise ValueError(f"the header of record {record.id!r} cannot be read: {error}") from error
    return (width, height) if orientation in exif.TRANSPOSING else (height, width)


class Measured:
    """A source that notes `stored_size` of its records as they are read.

    Attributes:
        sizes: int32 [n, 2]; zeros where a record has not been read, or its header cannot be.
    """

    def __init__(self, source: Source):
        self._source = source
        self.sizes = np.zeros((len(source), 2), np.int32)

    @property
    def class_names(self) -> list[str] | None:
        return self._source.class_names

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        try:
            self.sizes[index] = stored_size(record)
        except ValueError:  # whoever decodes it says what is wrong
            self.sizes[index] = 0
        return record

    def record_id(self, index: int) -> str:
        return self._source.record_id(index)


def _read_header(data: bytes) -> tuple[tuple[int, int], int]:
    """((height, width) as stored, orientation)"""
    if data.startswith(b"\xff\xd8"):
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        return (int(height), int(width)), exif.orientation(exif.of_jpeg(data))
    if data.startswith(tiff.MAGICS):
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page: Any = file.pages.first
            return (int(page.imagelength), int(page.imagewidth)), tiff.orientation(data)
    if data.startswith(npy.MAGIC):
        height, width, *_ = npy.read_npy(data, lambda height, width, channels: None).shape
        return (height, width), 1
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return (image.height, image.width), exif.orientation(image.info.get("exif", b""))
