"""`TarSource`: images inside one uncompressed tar, read in place."""

import os
import posixpath
import tarfile
import weakref
from typing import Any

import numpy as np

from dinojax.data.source import IMAGE_SUFFIXES, FileSource, is_image

# Magic bytes -> (name, command that undoes it): a compressed stream has no random access.
COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}


class TarSource(FileSource):
    """Every image file of a tar, sorted by member name, which is the id.

    The headers are scanned once; a record is then one positional read, safe from any thread.
    Nothing is ever extracted, so a member's name, links and permissions cannot touch the disk. Of
    members with the same name the last one counts, as in `tar`.

    Raises:
        FileNotFoundError: `path` is not a file.
        ValueError: compressed, not a tar, cut short, or without an image.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = os.fspath(path)
        if not os.path.isfile(self._path):
            raise FileNotFoundError(f"{self._path} is not a file; give a .tar of images")
        members = _scan(self._path)
        super().__init__(list(members))
        if not len(self):
            raise ValueError(
                f"{self._path} holds no image (looked for {' '.join(IMAGE_SUFFIXES)}); "
                "give a tar of class/image.jpg members"
            )
        self._extents = np.array([members[name] for name in self._names], np.int64)
        self._open()

    def read(self, index: int) -> bytes:
        offset, size = self._extents[index].tolist()
        data = os.pread(self._file, size, offset)
        if len(data) < size:
            raise ValueError(f"{self._path} ends inside {self._names[index]!r}; copy the tar again")
        return data

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()


def _scan(path: str) -> dict[str, tuple[int, int]]:
    """Name -> (offset, size) in bytes of every regular image member."""
    _refuse_compressed(path)
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                # tarfile would keep every header in memory
                tar.members.clear()  # type: ignore[attr-defined]
                # A sparse member's bytes are not contiguous in the file.
                if member.isreg() and not member.issparse() and is_image(member.name):
                    name = posixpath.normpath(member.name).lstrip("/")
                    members[name] = member.offset_data, member.size
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is not a complete tar ({error}); copy or pack it again"
        ) from error
    return members


def _refuse_compressed(path: str) -> None:
    with open(path, "rb") as file:
        head = file.read(8)
    for magic, (name, command) in COMPRESSIONS.items():
        if head.startswith(magic):
            raise ValueError(
                f"{path} is compressed ({name}), which allows no random access; "
                f"run `{command} {path}` once and give the .tar"
            )
