"""Image files with a map each, in files of other names: published dense datasets on disk."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dinojax.data.records import Record
from dinojax.data.source import check_index

IMAGES = (".jpg", ".jpeg", ".png")


class PairedFiles:
    """Files below `root` by relative names, ``(image, map)``; the image's is the id.

    Args:
        part: what the maps are; see `dinojax.data.maps` for the bytes that are read.

    Raises:
        ValueError: no pair.
        FileNotFoundError: a file of one is missing.
    """

    class_names = None

    def __init__(
        self,
        root: str | os.PathLike[str],
        pairs: Sequence[tuple[str, str]],
        part: Literal["segmentation", "depth"],
    ):
        self._root, self._pairs, self._part = os.fspath(root), list(pairs), part
        if not pairs:
            raise ValueError(f"{self._root} has no images with {part} maps; give another folder")
        names = (name for pair in pairs for name in pair)
        missing = [name for name in names if not os.path.exists(os.path.join(self._root, name))]
        if missing:
            raise FileNotFoundError(
                f"{self._root} lacks {len(missing)} of {2 * len(pairs)} files, such as "
                f"{missing[0]!r}; unpack all of the dataset there"
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Record:
        name, map = self._pairs[check_index(index, len(self))]
        image, values = self._read(name), self._read(map)
        if self._part == "depth":
            return Record(image=image, id=name, depth=values)
        return Record(image=image, id=name, segmentation=values)

    def record_id(self, index: int) -> str:
        return self._pairs[check_index(index, len(self))][0]

    def _read(self, name: str) -> bytes:
        with open(os.path.join(self._root, name), "rb") as file:
            return file.read()


def match_folders(root: Path, images: str, maps: str) -> list[tuple[str, str]]:
    """Pairs from two folders below `root`: ``images/a.jpg`` goes with ``maps/a.png``, sorted.

    Raises:
        FileNotFoundError: no such folder, or an image without a map.
    """
    for name in (images, maps):
        if not (root / name).is_dir():
            raise FileNotFoundError(f"{root / name} is missing; unpack all of the dataset there")
    names = sorted(name for name in os.listdir(root / images) if name.lower().endswith(IMAGES))
    known = set(os.listdir(root / maps))
    pairs = [(name, f"{os.path.splitext(name)[0]}.png") for name in names]
    lonely = [name for name, map in pairs if map not in known]
    if lonely:
        raise FileNotFoundError(
            f"{root / images}: {len(lonely)} of {len(names)} images have no map in {root / maps}, "
            f"such as {lonely[0]!r}; unpack all of the dataset there"
        )
    return [(f"{images}/{name}", f"{maps}/{map}") for name, map in pairs]
