"""Files that are whole or absent, whenever the process dies."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

DRAFT = re.compile(r"\..+\.\d+")
"""Names of the files of `replacing` before they are whole."""


def replace_text(path: Path, text: str) -> None:
    """`replace_bytes` in UTF-8."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Write `data` to a neighbour of `path`, then rename it over `path`."""
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to, which takes the place of `path` at the end, unless this fails."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def drop_drafts(folder: Path) -> None:
    """Remove what killed processes have left of `replacing` files of a folder, where no other
    process writes."""
    for path in folder.iterdir():
        if DRAFT.fullmatch(path.name):
            path.unlink(missing_ok=True)
