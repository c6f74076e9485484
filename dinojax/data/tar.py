"""`TarSource`: images inside uncompressed tars, such as WebDataset shards, read in place."""

import functools
import os
import posixpath
import tarfile
import weakref

import numpy as np

from dinojax.data.file_names import IMAGE_SUFFIXES, LeftOut
from dinojax.data.files import FileSource
from dinojax.data.handles import Handles
from dinojax.data.shards import find_shards, shard_names

# Magic bytes -> (name, command that undoes it): a compressed stream has no random access.
COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}


class TarSource(FileSource):
    """Every image file of one tar, or of all tars that a glob names.

    Of one tar, records are sorted by member name, which is the id. Of a glob, shards are sorted by
    path, and an id is the shard's name and the member's, ``train-0001/cat/a.jpg``, because members
    of different shards may have one name.

    The headers are scanned once; a record is then one positional read, safe from any thread.
    Nothing is ever extracted, so a member's name, links and permissions cannot touch the disk. Of
    members with the same name the last one counts, as in `tar`.

    Raises:
        FileNotFoundError: `path` is not a file and matches none.
        ValueError: one of them is compressed, no tar, cut short, or without an image.
    """

    def __init__(self, path: str | os.PathLike[str]):
        pattern = os.fspath(path)
        self._paths = find_shards(pattern, "a .tar of images")
        left_out = LeftOut(pattern)
        names, ids, extents = [], [], []
        for shard, file in enumerate(self._paths):
            members = _scan(file, left_out)
            names += sorted(members)
            extents += [(shard, *members[name]) for name in sorted(members)]
        if pattern in self._paths:
            ids = names
        else:
            stems = [name.removesuffix(".tar") for name in shard_names(pattern, self._paths)]
            ids = [f"{stems[at[0]]}/{name}" for name, at in zip(names, extents, strict=True)]
        self._extents = np.array(extents, np.int64).reshape(-1, 3)
        self._files = Handles(functools.partial(_File, self._paths))
        super().__init__(names, ids, left_out)
        self._check_no_tar_is_empty()

    def read_file(self, number: int) -> bytes:
        shard, offset, size = self._extents[number].tolist()
        file = self._files[shard]
        data = os.pread(file.number, size, offset)
        if len(data) < size:
            raise ValueError(
                f"{self._paths[shard]} ends inside {self.owner(number)!r}; copy the tar again"
            )
        return data

    def _check_no_tar_is_empty(self) -> None:
        """A tar of zeros, such as an unfinished copy leaves, is a sound archive of no members."""
        holding = np.unique(self._extents[self._parts.image, 0])
        empty = np.setdiff1d(np.arange(len(self._paths)), holding)
        if len(empty):
            others = f", nor do {len(empty) - 1} more" if len(empty) > 1 else ""
            raise ValueError(
                f"{self._paths[empty[0]]} holds no image{others} (looked for "
                f"{' '.join(IMAGE_SUFFIXES)}); copy or pack it again, or give a pattern without it"
            )


class _File:
    """An open file that closes when nobody holds it any more."""

    def __init__(self, paths: list[str], shard: int):
        self.number = os.open(paths[shard], os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.number)


def _scan(path: str, left_out: LeftOut) -> dict[str, tuple[int, int]]:
    """Name -> (offset, size) in bytes of every regular member that belongs to a record."""
    _refuse_compressed(path)
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                # tarfile would keep every header in memory
                tar.members.clear()  # type: ignore[attr-defined]
                # A sparse member's bytes are not contiguous in the file.
                if member.isreg() and not member.issparse() and left_out.keep(member.name):
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
