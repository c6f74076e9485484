"""`NumpySource`: NumPy arrays in a file or folder, mapped into memory rather than read."""

import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int32

from dinojax.data.labels import name_classes
from dinojax.data.records import Record
from dinojax.data.source import check_index

NAMES = ("images", "labels", "segmentation", "depth", "class_names")


class NumpySource:
    """Images in an array, with what else there is per image.

    Args:
        path: an ``.npz`` written by `numpy.savez`, a folder of ``.npy`` files, or one ``.npy`` of
            images. Arrays are called ``images`` (uint8 [N, H, W, C] or [N, H, W]), ``labels``
            (integers [N], negative: none), ``segmentation`` (integers [N, H, W]), ``depth``
            (float32 [N, H, W], metres, 0 = unknown) and ``class_names`` (strings).

    Ids are positions, ``00000042``.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: compressed, no images, or arrays of another type or length.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = os.fspath(path)
        self._open()
        images = self._arrays.get("images")
        if images is None or not len(images):
            raise ValueError(f"{self._path} holds no array 'images' with at least 1 image")
        _check(self._arrays, self._path)
        self._labels = self._arrays.get("labels")
        self.class_names: list[str] | None = None
        if self._labels is not None:
            self._labels = np.array(self._labels, np.int32).reshape(-1)
            names = self._arrays.get("class_names")
            self.class_names = name_classes(
                self._labels, None if names is None else names.tolist(), self._path
            )

    def __len__(self) -> int:
        return len(self._arrays["images"])

    def __getitem__(self, index: int) -> Record:
        id = self.record_id(index)
        image = np.array(self._arrays["images"][index])
        label = -1 if self._labels is None else int(self._labels[index])
        maps = {
            name: np.array(self._arrays[name][index])
            for name in ("segmentation", "depth")
            if name in self._arrays
        }
        return Record(
            image=image if image.ndim == 3 else image[..., None],
            id=id,
            label=None if label < 0 else label,
            **maps,
        )

    @property
    def known_labels(self) -> Int32[np.ndarray, " n"] | None:
        """Of all records, -1: none; no record is read. None: there are no labels."""
        return self._labels

    def record_id(self, index: int) -> str:
        return f"{check_index(index, len(self)):08d}"

    def _open(self) -> None:
        self._arrays = _map_arrays(self._path)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_arrays"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()


def _map_arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of `NAMES` that are there, not read yet."""
    if os.path.isdir(path):
        files = {name: os.path.join(path, f"{name}.npy") for name in NAMES}
        return {name: _load(file) for name, file in files.items() if os.path.isfile(file)}
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path} is not a file; give an .npz, a folder of .npy files, or one .npy of images"
        )
    if path.endswith(".npy"):
        return {"images": _load(path)}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not an .npz ({error}); write it with numpy.savez") from error
    return {name: _map_member(path, members[name]) for name in NAMES if name in members}


def _load(path: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(
            f"{path} is not a plain .npy ({error}); write it with numpy.save"
        ) from None


def _map_member(path: str, info: zipfile.ZipInfo) -> np.ndarray:
    """An array inside an uncompressed zip, which `numpy.load` would read whole."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            f"{path} is compressed, which allows no random access; write it with numpy.savez "
            "instead of savez_compressed"
        )
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)  # of the zip member: the lengths of name and extra field end it
        skipped = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        file.seek(info.header_offset + 30 + skipped)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"{path} holds Python objects in {info.filename!r}; store numbers")
        order = "F" if fortran else "C"
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", file.tell(), shape, order)


def _check(arrays: Mapping[str, np.ndarray], path: str) -> None:
    wanted = {
        "images": ("uint8 [N, H, W, C] or [N, H, W]", lambda a: a.dtype == np.uint8, (3, 4)),
        "labels": ("integers [N]", lambda a: a.dtype.kind in "iu" and a.size == len(a), (1, 2)),
        "segmentation": ("integers [N, H, W]", lambda a: a.dtype.kind in "iu", (3,)),
        "depth": ("float32 [N, H, W]", lambda a: a.dtype == np.float32, (3,)),
        "class_names": ("strings", lambda a: a.dtype.kind == "U", (1,)),
    }
    for name, array in arrays.items():
        rule, kind, dimensions = wanted[name]
        if not kind(array) or array.ndim not in dimensions:
            raise ValueError(
                f"{path} holds {name!r} as {array.dtype} {list(array.shape)}; give {rule}"
            )
        if name != "class_names" and len(array) != len(arrays["images"]):
            raise ValueError(
                f"{path} holds {len(array)} {name} for {len(arrays['images'])} images; give as many"
            )
