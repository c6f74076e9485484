"""Segmentation and depth: what is decoded, and that they move as the image does."""

import io
import struct
import zlib

import numpy as np
import pytest
from datasets import npy
from images import as_tiff, bands, encode
from PIL import Image, ImageOps

from dinojax.data.maps import decode_record, orientation_of
from dinojax.data.records import Record

HEIGHT, WIDTH = 12, 20


def classes() -> np.ndarray:
    """Nine different classes, 0 only in the top left corner: no two orientations look alike."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (3 * (y * 3 // HEIGHT) + x * 3 // WIDTH).astype(np.uint8)


def picture() -> np.ndarray:
    """An image that shows its classes as grey levels."""
    return np.repeat((classes() * 28)[..., None], 3, -1)


def oriented(orientation: int, format: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(picture(), format, exif=exif)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_maps_turn_with_the_image(format, orientation):
    data = oriented(orientation, format)
    assert orientation_of(data) == orientation
    record = Record(data, "x", segmentation=encode(classes(), "PNG"), depth=npy(classes() + 1.0))
    image, segmentation, depth = decode_record(record, 64)
    assert segmentation is not None and depth is not None
    wanted = (HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT)
    assert image.shape[:2] == segmentation.shape == depth.shape == wanted
    shown = image[..., 0].astype(int)
    # A block is 4x6 pixels; JPEG and WebP smear its edges.
    agree = np.abs(shown - 28.0 * segmentation) < (1 if format == "PNG" else 10)
    assert agree.mean() > (0.999 if format == "PNG" else 0.8)
    assert np.array_equal(depth, segmentation + np.float32(1))


def test_orientation_of_other_formats():
    assert orientation_of(oriented(6, "TIFF")) == 6
    assert orientation_of(encode(picture(), "TIFF")) == orientation_of(npy(picture())) == 1


def test_maps_turn_with_images_of_many_channels():
    image = bands(HEIGHT, WIDTH, 5)
    data = as_tiff(image, extratags=[(0x0112, "H", 1, 6, True)])
    shown = decode_record(Record(data, "x", segmentation=image[..., 1]), 64, channels=5)
    assert np.array_equal(shown.image, image[::-1].swapaxes(0, 1))
    assert np.array_equal(shown.segmentation, shown.image[..., 1])


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("canvas_px", [20, 13, 7, 3])
def test_maps_shrink_with_the_image(orientation, canvas_px):
    depth = classes().astype(np.float32)
    record = Record(oriented(orientation), "x", segmentation=classes(), depth=depth)
    shrunk = decode_record(record, canvas_px)
    height, width = shrunk.image.shape[:2]
    assert max(height, width) == canvas_px
    with Image.open(io.BytesIO(oriented(orientation))) as stored:  # Pillow as a second opinion
        turned = ImageOps.exif_transpose(stored).convert("L")
    wanted = np.asarray(turned.resize((width, height), Image.Resampling.NEAREST)) // 28
    assert np.array_equal(shrunk.segmentation, wanted)
    assert np.array_equal(shrunk.depth, wanted)
    assert shrunk.segmentation.dtype == np.uint8 and shrunk.depth.dtype == np.float32


def test_nearest_takes_the_middle():
    columns = np.arange(9)[None].repeat(9, 0)
    record = Record(np.zeros((9, 9, 3), np.uint8), "x", segmentation=columns)
    _, segmentation, _ = decode_record(record, 3)
    assert segmentation is not None and segmentation[0].tolist() == [1, 4, 7]


def test_maps_of_another_resolution_follow_the_image():
    small = classes()[::2, ::2]
    record = Record(picture(), "x", segmentation=small)
    _, segmentation, _ = decode_record(record, 64)
    assert segmentation is not None and segmentation.shape == (HEIGHT, WIDTH)
    assert np.array_equal(segmentation[::2, ::2], small)


def test_maps_of_other_proportions_are_refused():
    record = Record(oriented(1), "x", segmentation=classes().T)
    with pytest.raises(ValueError, match=r"record 'x': its segmentation is 12x20 upright, the ima"):
        decode_record(record, 64)


def palette() -> bytes:
    image = Image.fromarray(classes())
    image = image.convert("P")
    image.putpalette([i * 37 % 256 for i in range(768)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (encode(classes(), "PNG"), classes()),
        (encode(Image.fromarray(classes()).convert("1"), "PNG"), None),
        (encode(classes().astype(np.uint16) + 300, "PNG"), classes().astype(int) + 300),
        (npy(classes().astype(np.int64)), classes()),
        (npy(classes()[..., None]), classes()),
        (classes() > 3, (classes() > 3).astype(int)),
    ],
)
def test_segmentation_encodings(stored, wanted):
    record = Record(picture(), "x", segmentation=stored)
    segmentation = decode_record(record, 64).segmentation
    assert segmentation is not None and segmentation.dtype.kind in "iu"
    if wanted is None:
        assert set(np.unique(segmentation)) <= {0, 1}
    else:
        assert np.array_equal(segmentation, wanted)


def test_palette_indices_are_the_classes():
    segmentation = decode_record(Record(picture(), "x", segmentation=palette()), 64).segmentation
    with Image.open(io.BytesIO(palette())) as image:
        assert segmentation is not None and np.array_equal(segmentation, np.asarray(image))
        assert len(np.unique(segmentation)) == 9


METRES = (classes() / 4 + 0.001).astype(np.float32)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (npy(METRES), METRES),
        (npy(METRES.astype(np.float64)), METRES),
        (METRES, METRES),
        (encode((METRES * 1000).round().astype(np.uint16), "PNG"), METRES),
        (encode(METRES[..., None].view(np.uint8), "PNG"), METRES),
    ],
    ids=["npy", "npy64", "array", "millimetres", "tfds"],
)
def test_depth_encodings(stored, wanted):
    depth = decode_record(Record(picture(), "x", depth=stored), 64).depth
    assert depth is not None and depth.dtype == np.float32
    assert np.allclose(depth, wanted, rtol=0, atol=5e-4)


def grey4() -> bytes:
    """A PNG of 4-bit grey, which Pillow writes only by hand."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + b"\x12" * (WIDTH // 2) for _ in range(HEIGHT))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 4, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        ({"segmentation": encode(picture(), "PNG")}, r"segmentation .*RGB pixels are no class num"),
        ({"segmentation": npy(METRES)}, r"segmentation .*float32 are no class numbers; use integ"),
        ({"segmentation": b""}, r"cannot be read: the bytes are neither PNG nor NPY"),
        ({"segmentation": encode(picture(), "JPEG")}, r"the bytes are neither PNG nor NPY"),
        ({"segmentation": encode(classes(), "PNG")[:60]}, r"segmentation cannot be read: image fi"),
        ({"segmentation": npy(np.zeros((2, 3, 4), int))}, r"is \[2, 3, 4\]; give \[H, W\]"),
        ({"segmentation": grey4()}, r"2- and 4-bit grey is scaled to 8 bits"),
        ({"depth": encode(classes(), "PNG")}, r"depth .*L pixels are no depth; use 16-bit grey"),
        ({"depth": npy(classes())}, r"depth .*uint8 are no metres; use float32"),
        ({"depth": np.zeros((0, 4), np.float32)}, r"depth is \[0, 4\]; give \[H, W\]"),
    ],
)
def test_maps_that_are_none(maps, words):
    with pytest.raises(ValueError, match=rf"record 'x': its .*{words}"):
        decode_record(Record(picture(), "x", **maps), 64)
