"""Small encoded images, folders and tars for the tests of `dinojax.data`."""

import io
import tarfile
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from dinojax.data.records import Record


def smooth(height: int, width: int) -> np.ndarray:
    """Gradients with a bright top left corner: no two orientations look alike."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], -1)
    image[: height // 3, : width // 4] = 240
    return image.astype(np.uint8)


def bands(height: int, width: int, channels: int) -> np.ndarray:
    """`smooth` in any number of different channels."""
    gradients = smooth(height, width)[..., np.arange(channels) % 3]
    return gradients // (1 + np.arange(channels, dtype=np.uint8))


def encode(image: np.ndarray | Image.Image, format: str = "JPEG", **options) -> bytes:
    """The image as a file's bytes."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **({"quality": 95} if format == "JPEG" else {}), **options)
    return buffer.getvalue()


def as_npy(array: np.ndarray) -> bytes:
    """The array as an NPY file's bytes."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def as_tiff(samples: np.ndarray, **options) -> bytes:
    """Samples [H, W, N], or planes [N, H, W], as a TIFF of bands without a colour space."""
    buffer = io.BytesIO()
    options = {"photometric": "minisblack", "planarconfig": "contig"} | options
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    """Write files by relative name, in the order given."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    """Pack files in the order given."""
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


class ArraySource:
    """`count` records; image i is i + 1 everywhere and 2 + i % 5 by 3 pixels."""

    def __init__(self, count: int):
        self.count, self.class_names = count, ["even", "odd"]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        image = np.full((2 + index % 5, 3, 3), index % 255 + 1, np.uint8)
        return Record(image=image, id=self.record_id(index), label=index % 2)

    def record_id(self, index: int) -> str:
        return f"array/{index}"
