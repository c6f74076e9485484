"""`FolderSource`: a folder of images, ``class/image.jpg`` or flat."""

import os
from collections.abc import Iterator

from dinojax.data.files import IMAGE_SUFFIXES, FileSource, is_part


class FolderSource(FileSource):
    """Every image below `path`, links followed, sorted by relative path, which is the id.

    Raises:
        FileNotFoundError: `path` is not a folder.
        ValueError: no image below it, or what `FileSource` refuses.
        OSError: a subfolder cannot be listed.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = os.fspath(path)
        if not os.path.isdir(self._path):
            raise FileNotFoundError(
                f"{self._path} is not a folder; give a folder of images, class/image.jpg or flat"
            )
        self._names = sorted(_part_names(self._path))
        super().__init__(self._names)
        if not len(self):
            raise ValueError(
                f"{self._path} holds no image (looked in all its subfolders for "
                f"{' '.join(IMAGE_SUFFIXES)}); give the folder that holds the class folders"
            )

    def read_file(self, number: int) -> bytes:
        with open(os.path.join(self._path, self._names[number]), "rb") as file:
            return file.read()


def _part_names(root: str) -> Iterator[str]:
    for folder, _, files in os.walk(root, onerror=_fail, followlinks=True):
        prefix = os.path.relpath(folder, root).replace(os.sep, "/")
        for file in filter(is_part, files):
            yield file if prefix == "." else f"{prefix}/{file}"


def _fail(error: OSError) -> None:
    """`os.walk` would skip a folder that it cannot list, and the run would silently lose data."""
    raise error
