"""`FolderSource`: a folder of images, ``class/image.jpg`` or flat."""

import os
from collections.abc import Iterator

from dinojax.data.source import IMAGE_SUFFIXES, FileSource, is_image


class FolderSource(FileSource):
    """Every image below `path`, links followed, sorted by relative path, which is the id.

    Raises:
        FileNotFoundError: `path` is not a folder.
        ValueError: no image below it.
        OSError: a subfolder cannot be listed.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = os.fspath(path)
        if not os.path.isdir(self._path):
            raise FileNotFoundError(
                f"{self._path} is not a folder; give a folder of images, class/image.jpg or flat"
            )
        super().__init__(list(_image_names(self._path)))
        if not len(self):
            raise ValueError(
                f"{self._path} holds no image (looked in all its subfolders for "
                f"{' '.join(IMAGE_SUFFIXES)}); give the folder that holds the class folders"
            )

    def read(self, index: int) -> bytes:
        with open(os.path.join(self._path, self._names[index]), "rb") as file:
            return file.read()


def _image_names(root: str) -> Iterator[str]:
    for folder, _, files in os.walk(root, onerror=_fail, followlinks=True):
        prefix = os.path.relpath(folder, root).replace(os.sep, "/")
        for file in filter(is_image, files):
            yield file if prefix == "." else f"{prefix}/{file}"


def _fail(error: OSError) -> None:
    """`os.walk` would skip a folder that it cannot list, and the run would silently lose data."""
    raise error
