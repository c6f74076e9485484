"""Files as the web delivers them: a corpus of damaged, disguised and odd images, made on the spot.

Every entry is tiny, and none is random between runs.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from images import encode, smooth
from PIL import ExifTags, Image

HUGE = 100_000
"""Pixels per side that bombs claim in their headers."""


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    """A PNG chunk, with a wrong checksum if one is given."""
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(width: int, height: int, pixels: bytes, *, crc: int | None = None) -> bytes:
    """An 8-bit RGB PNG of these compressed bytes; `crc` replaces that of the pixel data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", pixels, crc) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def riff(fourcc: bytes, payload: bytes) -> bytes:
    """A WebP container with one chunk."""
    body = b"WEBP" + fourcc + struct.pack("<I", len(payload)) + payload
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_header(width: int, height: int) -> bytes:
    """A little-endian TIFF whose only directory claims a size and no pixels."""
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (262, 3, 1), (273, 4, 8)]
    entries += [(277, 3, 1), (278, 4, height), (279, 4, width * height % 2**32)]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)


def animation(format: str) -> bytes:
    frames = [Image.fromarray(np.roll(smooth(20, 20), k, 0)) for k in (0, 5, 10)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()


def overwritten(data: bytes, start: int, patch: bytes) -> bytes:
    return data[:start] + patch + data[start + len(patch) :]


def claiming(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG with other sides in its frame header."""
    at = jpeg.index(b"\xff\xc0") + 5
    return overwritten(jpeg, at, struct.pack(">HH", height, width))


JPEG = encode(smooth(40, 60))
SCAN = JPEG.index(b"\xff\xda")
TABLES = JPEG.index(b"\xff\xc4")
PNG = encode(smooth(40, 60), "PNG")
WEBP = encode(smooth(40, 60), "WEBP")
NOISE = np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes()
TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 9

UNREADABLE: dict[str, bytes] = {
    "empty.jpg": b"",
    "one_byte.jpg": b"\xff",
    "zeros.jpg": bytes(2000),
    "noise.jpg": NOISE,
    "text.jpg": b"404 not found\n",
    "html.png": b"<!DOCTYPE html><html><body>Sign in</body></html>",
    "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "pdf.webp": b"%PDF-1.7\n1 0 obj\n",
    "zip.jpg": b"PK\x03\x04" + NOISE[:100],
    "jpeg_magic_then_noise.jpg": b"\xff\xd8\xff\xe0" + NOISE,
    "jpeg_cut_in_header.jpg": JPEG[:20],
    "jpeg_header_only.jpg": JPEG[:SCAN],
    "jpeg_cut_at_scan.jpg": JPEG[: SCAN + 14],
    "jpeg_cut_in_half.jpg": JPEG[: (SCAN + len(JPEG)) // 2],
    "jpeg_without_its_end.jpg": JPEG[:-200],
    "jpeg_tables_overwritten.jpg": overwritten(JPEG, TABLES + 4, b"\xff" * 16),
    "jpeg_bomb.jpg": claiming(JPEG, 65_500, 65_500),
    "png_cut.png": PNG[: len(PNG) // 2],
    "png_header_only.png": PNG[:33],
    "png_wrong_header_crc.png": overwritten(PNG, 29, b"\0\0\0\0"),
    "png_pixels_missing.png": png(40, 40, zlib.compress(bytes(52))),
    "png_broken_stream.png": png(4, 4, b"\x78\x9c" + NOISE[:60]),
    "png_bomb.png": png(HUGE, HUGE, zlib.compress(bytes(1000))),
    "webp_cut.webp": WEBP[: len(WEBP) // 2],
    "webp_bomb.webp": riff(
        b"VP8X", struct.pack("<I", 0) + 2 * struct.pack("<I", HUGE - 1)[:3] + bytes(2)
    ),
    "tiff_bomb.png": tiff_header(HUGE, HUGE),
    "one_row.png": encode(smooth(1, 50), "PNG"),
    "one_column.jpg": encode(smooth(50, 1)),
    "a_line_once_shrunk.png": encode(smooth(2, 4000), "PNG"),
}
"""Never trained on, whatever the decoder supports. Names promise what the bytes do not keep."""

READABLE: dict[str, bytes] = {
    "wrong_extension.png": JPEG,
    "trailing_bytes.jpg": JPEG + NOISE,
    "exif_noise.jpg": encode(smooth(20, 30), exif=b"Exif\0\0" + NOISE[:500]),
    "exif_orientation_9.jpg": encode(smooth(20, 30), exif=TURNED),
    "cmyk.jpg": encode(Image.fromarray(smooth(20, 30)).convert("CMYK")),
    "grey_16_bit.png": encode(
        Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 163), "PNG"
    ),
    "palette.png": encode(Image.fromarray(smooth(20, 30)).quantize(9), "PNG"),
    "transparent.png": encode(np.dstack([smooth(20, 30), smooth(20, 30)[..., 0]]), "PNG"),
    "animated.webp": animation("WEBP"),
    "animated.png": animation("PNG"),
    "two_rows.png": encode(smooth(2, 3), "PNG"),
}
"""Odd, but images."""

DECODER_DECIDES: dict[str, bytes] = {
    "gif.png": encode(smooth(20, 30), "GIF"),
    "animated_gif.jpg": animation("GIF"),
    "bmp.jpg": encode(smooth(20, 30), "BMP"),
    "tiff.png": encode(smooth(20, 30), "TIFF"),
    "jpeg_2000.jpg": b"\0\0\0\x0cjP  \r\n\x87\n" + NOISE[:100],
    "png_wrong_data_crc.png": png(4, 4, zlib.compress(bytes(52)), crc=1),
    "jpeg_scan_overwritten.jpg": overwritten(JPEG, SCAN + 60, NOISE[:200]),
    "jpeg_scan_zeroed.jpg": overwritten(JPEG, SCAN + 60, bytes(200)),
    "cmyk_garbage.jpg": overwritten(
        encode(Image.fromarray(smooth(40, 60)).convert("CMYK")), 700, NOISE[:100]
    ),
}
"""Formats that may be supported or not, and damage that some decoders mend."""


FILE_SYSTEM = ["dangling_link.jpg", "link_to_itself.jpg", "no_permission.jpg", "deleted.jpg"]
"""Ills that no archive knows."""


def write_corpus(root: Path, good: int) -> Path:
    """All of the above and `good` ordinary images.

    The file without permissions is no image either: root may read everything. The caller deletes
    ``deleted.jpg``. A folder named like an image is among them, too; it is no record.
    """
    root.mkdir(parents=True)
    for name, data in (UNREADABLE | READABLE | DECODER_DECIDES).items():
        (root / name).write_bytes(data)
    for i in range(good):
        (root / f"good_{i:02d}.png").write_bytes(encode(np.roll(smooth(12, 12), i, 1), "PNG"))
    (root / "dangling_link.jpg").symlink_to("nowhere.jpg")
    (root / "link_to_itself.jpg").symlink_to("link_to_itself.jpg")
    (root / "no_permission.jpg").write_bytes(b"no image either")
    (root / "no_permission.jpg").chmod(0)
    (root / "deleted.jpg").write_bytes(JPEG)
    (root / "folder.jpg").mkdir()
    return root
