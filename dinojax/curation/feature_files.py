"""The files of features that stages of curation read, as `dinojax.embed` writes them."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dinojax.curation.feature_records import list_examples, read_example_rows
from dinojax.curation.feature_tables import Listed, list_table, read_table_rows

FORMATS = {
    ".parquet": (list_table, read_table_rows),
    ".array_record": (list_examples, read_example_rows),
}
"""By the end of the files' names."""
NAME = re.compile(r"(.*)-\d+-of-(\d+)\.\w+")
"""Of a file by `dinojax.embed`: what a set of files has in common, and how many they are."""


def feature_files(folder: str | None, name: str) -> list[Path]:
    """In the order of their names.

    Args:
        name: of the options in the configuration that say `folder`, for messages.

    Raises:
        FileNotFoundError: no such folder, or files of it are missing.
        ValueError: no folder is given, or it has files of both kinds or of several sets.
    """
    if folder is None:
        raise ValueError(f"{name}.folder=None is no folder; give one that dinojax.embed wrote")
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"{name}.folder={folder} is not a folder; give one that dinojax.embed wrote"
        )
    found = {end: sorted(Path(folder).glob(f"[!._]*{end}")) for end in FORMATS}  # no drafts
    if all(found.values()):
        raise ValueError(
            f"{name}.folder={folder} has files of {' and '.join(FORMATS)}; leave one kind of them"
        )
    paths = next(filter(None, found.values()), [])
    if not paths:
        raise FileNotFoundError(
            f"{name}.folder={folder} has no files of {' or '.join(FORMATS)}; write them with "
            f"dinojax.embed(SOURCE, MODEL, '{folder}')"
        )
    sets: dict[tuple[str, ...], list[str]] = {}
    for path in paths:
        match = NAME.fullmatch(path.name)
        sets.setdefault(match.groups() if match else (), []).append(path.name)
    if len(sets) > 1:
        found = "; ".join(f"{len(names)} such as {names[0]}" for names in sets.values())
        raise ValueError(
            f"{name}.folder={folder} has {len(sets)} sets of files: {found}; give each a folder of "
            "its own, and delete what an earlier call has left"
        )
    ((common, names),) = sets.items()
    if common and int(common[1]) != len(names):
        raise FileNotFoundError(
            f"{name}.folder={folder} has {len(names)} of the {int(common[1])} files that belong to "
            f"{names[0]}; call dinojax.embed again, which writes those that are missing"
        )
    return paths


def list_file(path: Path, feature: str, name: str) -> Listed:
    """All but the rows of one file.

    Raises:
        ValueError: a damaged file, or one without ids or without such a feature.
    """
    return FORMATS[path.suffix][0](path, feature, name)


def read_rows(path: Path, feature: str) -> Iterator[Float[np.ndarray, "r D"]]:
    """The rows of one file, some thousands at a time, in float32."""
    return FORMATS[path.suffix][1](path, feature)
