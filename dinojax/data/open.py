"""From the word in a config to a source."""

import os
from typing import Any

from dinojax.data.folder import FolderSource
from dinojax.data.scenes import ScenesSource
from dinojax.data.source import Source
from dinojax.data.tar import TarSource


def open_source(spec: str, **options: Any) -> Source:
    """``"scenes"`` (with the options of `ScenesSource`), a folder of images, or a ``.tar`` of them.

    Raises:
        ValueError: none of these, or options that the kind does not take.
        FileNotFoundError: a ``.tar`` that does not exist.
    """
    if spec == "scenes":
        return ScenesSource(**options)
    if options:
        raise ValueError(f"{sorted(options)} are options of 'scenes'; leave them out for {spec!r}")
    if os.path.isdir(spec):
        return FolderSource(spec)
    if spec.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        return TarSource(spec)
    raise ValueError(
        f"source {spec!r} is neither 'scenes', nor an existing folder, nor a .tar file; use one"
    )
