"""`FolderSource`: a folder of images, ``class/image.jpg`` or flat."""

import os
from collections.abc import Iterator

from dinojax.data.file_names import IMAGE_SUFFIXES, LeftOut
from dinojax.data.files import FileSource


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
        left_out = LeftOut(self._path)
        self._names = sorted(filter(left_out.keep, _file_names(self._path)))
        super().__init__(self._names, self._names, left_out)
        if not len(self):
            raise ValueError(
                f"{self._path} holds no image (looked in all its subfolders for "
                f"{' '.join(IMAGE_SUFFIXES)}); give the folder that holds the class folders"
            )

    def read_file(self, number: int) -> bytes:
        with open(os.path.join(self._path, self._names[number]), "rb") as file:
            return file.read()


def _file_names(root: str) -> Iterator[str]:
    for folder, _, files in os.walk(root, onerror=_fail, followlinks=True):
        prefix = os.path.relpath(folder, root).replace(os.sep, "/")
        for file in files:
            yield file if prefix == "." else f"{prefix}/{file}"


def _fail(error: OSError) -> None:
    """`os.walk` would skip a folder that it cannot list, and the run would silently lose data."""
    raise error
