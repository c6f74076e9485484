"""From the words in a config, ``kind:path``, to a source."""

import os
from typing import Any

from dinojax.data.source import Source

EXAMPLES = {
    "folder": "folder:/data/images",
    "tar": "tar:/data/train-*.tar",
    "array_record": "array_record:/data/prepared",
    "tfds": "tfds:cifar10:train@/data/tfds",
    "parquet": "parquet:/data/train-*.parquet",
    "numpy": "numpy:/data/images.npz",
    "scenes": "scenes:4096",
    "ids": "ids:/data/selection.parquet:tar:/data/train-*.tar",
}
"""Every kind of source, and a spec of it."""


def open_source(spec: str, **options: Any) -> Source:
    """A source by ``kind:path``; kinds are those of `EXAMPLES`, `docs/data.md` describes each.

    ``scenes`` stands alone with the options of `ScenesSource`, or takes a number of images;
    ``ids:FILE:SPEC`` is the part of the source SPEC that a file lists. A bare path is an existing
    folder or a ``.tar`` file.

    Args:
        options: those of `ScenesSource` for ``scenes``, `data_dir` for ``tfds``; ``ids`` hands them
            on to its source.

    Raises:
        ValueError: an unknown kind, options that the kind does not take, a remote address, a
            missing package, or data that the kind refuses.
        FileNotFoundError: no such file or folder.
    """
    if "://" in spec:
        raise ValueError(
            f"source {spec!r} is a remote address; mount or copy it and give the local path"
        )
    kind, path = _split(spec)
    taken = {"scenes": None, "ids": None, "tfds": {"data_dir"}}.get(kind, set())
    if taken is not None and options.keys() - taken:
        raise ValueError(
            f"{sorted(options.keys() - taken)} are options of 'scenes'; leave them out for {spec!r}"
        )
    try:
        return _open(kind, path, options)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"source {spec!r} needs the package {error.name}; install it with pip"
        ) from error


def _split(spec: str) -> tuple[str, str]:
    """(kind, path), the kind of a bare path being found out."""
    kind, colon, path = spec.partition(":")
    if kind in EXAMPLES and (path or kind == "scenes"):
        return kind, path
    if os.path.isdir(spec):
        return "folder", spec
    if spec.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        return "tar", spec
    known = ", ".join(EXAMPLES.values())
    if colon and kind in EXAMPLES:
        raise ValueError(f"source {spec!r} lacks a path; write e.g. {EXAMPLES[kind]}")
    raise ValueError(
        f"source {spec!r} is neither 'scenes', nor an existing folder, nor a .tar file, nor "
        f"kind:path of a known kind; use one, e.g. {known}"
    )


def _open(kind: str, path: str, options: dict[str, Any]) -> Source:
    # Imported here because pyarrow and TFDS take half a second each.
    match kind:
        case "folder":
            from dinojax.data.folder import FolderSource

            return FolderSource(path)
        case "tar":
            from dinojax.data.tar import TarSource

            return TarSource(path)
        case "array_record":
            from dinojax.data.array_record import ArrayRecordSource

            return ArrayRecordSource(path)
        case "tfds":
            from dinojax.data.tfds import TfdsSource

            return TfdsSource(path, **options)
        case "parquet":
            from dinojax.data.parquet import ParquetSource

            return ParquetSource(path)
        case "numpy":
            from dinojax.data.arrays import NumpySource

            return NumpySource(path)
        case "ids":
            from dinojax.data.ids import read_ids, select

            file, colon, rest = path.partition(":")
            if not (file and colon and rest):
                raise ValueError(
                    f"source 'ids:{path}' lacks a file or a source; write e.g. {EXAMPLES['ids']}"
                )
            return select(open_source(rest, **options), read_ids(file))
        case _:
            from dinojax.data.scenes import ScenesSource

            return ScenesSource(**(_number_of_images(path) | options))


def _number_of_images(path: str) -> dict[str, Any]:
    if path and not path.isdecimal():
        raise ValueError(f"source 'scenes:{path}' names no number of images; use scenes:4096")
    return {"num_images": int(path)} if path else {}
