"""Files that are whole or absent, whenever the process dies."""

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """`replace_bytes` in UTF-8."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Write `data` to a neighbour of `path`, then rename it over `path`."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
