"""What is in a file or a checkpoint, in 16 hex digits that are equal wherever it lies."""

import hashlib
import os
from pathlib import Path

from dinojax.runtime.errors import CheckpointError
from dinojax.runtime.stored_state import read_digests


def hash_text(text: str) -> str:
    """Of UTF-8."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def hash_file(path: str | os.PathLike[str]) -> str:
    """Of the bytes; reads all of them."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def hash_checkpoint(path: str | os.PathLike[str], below: str = "") -> str:
    """Of the digests that were saved with the state; reads no array, and `read_state` proves them.

    Args:
        below: only of the leaves whose path begins with it, as ``teacher/backbone/``.

    Raises:
        CheckpointError: damaged, or there are no such leaves.
    """
    found = {
        name.removeprefix(below): digest
        for name, digest in read_digests(path).items()
        if name.startswith(below)
    }
    if not found:
        raise CheckpointError(f"checkpoint {os.fspath(path)} has no digests of {below or 'leaves'}")
    return hash_text("\n".join(f"{name} {found[name]}" for name in sorted(found)))
