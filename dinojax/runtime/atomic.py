"""Text files that are whole or absent, whenever the process dies."""

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write `text` to a neighbour of `path`, then rename it over `path`."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
