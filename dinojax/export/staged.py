"""Files that get their names once they have been read back: until then they lie beside."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A path to write the file or folder `out` to, and files whose names begin like its own.

    At the end they take their places, `out` last, and of a folder one file after the other; if
    anything fails before, nothing is left.
    """
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        yield beside / out.name
        for made in sorted(beside.iterdir(), key=lambda path: path.name == out.name):
            _move(made, out.with_name(made.name))
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _move(made: Path, to: Path) -> None:
    if made.is_dir() and to.is_dir():
        for file in sorted(made.iterdir()):
            os.replace(file, to / file.name)
    else:
        os.replace(made, to)
