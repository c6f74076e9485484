"""What is in a text, bytes or a file, in 16 hex digits; of checkpoints `stored_state` knows it."""

import hashlib
import os
from pathlib import Path


def hash_text(text: str) -> str:
    """Of UTF-8."""
    return hash_bytes(text.encode())


def hash_bytes(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def hash_file(path: str | os.PathLike[str]) -> str:
    """Of the bytes; reads all of them."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
