"""Which files a pattern names, and what tells their records apart."""

import glob
import os


def find_shards(pattern: str, kind: str) -> list[str]:
    """The files of a glob, sorted, or the one file that `pattern` is.

    Args:
        kind: what the files are, for messages, e.g. "a .tar of images".

    Raises:
        FileNotFoundError: no file of that name, or none that matches.
        ValueError: a brace range, which is no glob.
    """
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        raise FileNotFoundError(f"{pattern} is a folder; give {kind}, or a glob of several")
    if not glob.has_magic(pattern):
        hint = "; brace ranges are no glob, write * or [0-9]" if "{" in pattern else ""
        raise FileNotFoundError(f"{pattern} is not a file; give {kind}, or a glob of several{hint}")
    found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not found:
        raise FileNotFoundError(f"{pattern} matches no file; give {kind}, or a glob of several")
    return found


def shard_names(pattern: str, paths: list[str]) -> list[str]:
    """Names of shards that do not change when others are added or the whole moves.

    They are relative to the folder in which the pattern's first wildcard is, with ``/``.
    """
    fixed: list[str] = []
    if not os.path.isfile(pattern):
        for part in pattern.split(os.sep)[:-1]:
            if glob.has_magic(part):
                break
            fixed.append(part)
    root = os.sep.join(fixed) if fixed else os.path.dirname(pattern)
    return [os.path.relpath(path, root or os.curdir).replace(os.sep, "/") for path in paths]
