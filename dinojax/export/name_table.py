"""Names of one library for those of another: pairs of patterns, read in both directions."""

import re
from collections.abc import Iterable

FIELDS = {
    "layer": r"\d+",
    "stage": r"\d",
    "index": r"\d",
    "part": "[qkv]",
    "leaf": "weight|bias",
}
"""What stands in the braces of a pattern like ``blocks.{layer}.norm{index}.{leaf}``."""


class NameTable:
    """Rows of an official pattern, the one that is written for it, and others that mean the same.

    A bijection between official names and written ones, in which the first row that fits wins.
    """

    def __init__(self, *rows: tuple[str, ...]):
        self._out = [(_compiled(row[0]), row[1]) for row in rows]
        self._in = [(_compiled(theirs), row[0]) for row in rows for theirs in row[1:]]

    def to_theirs(self, official: str) -> str | None:
        """The name that is written; None: it has no place there."""
        return _renamed(official, self._out)

    def to_official(self, theirs: str) -> str | None:
        """The official name of one of theirs; None: an unknown one."""
        return _renamed(theirs, self._in)


def prefixed(official: str, theirs: str, rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows of what is inside a block, as rows of the whole model."""
    return [(official + row[0], *(theirs + one for one in row[1:])) for row in rows]


def _compiled(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern)
    for name, values in FIELDS.items():
        text = text.replace(re.escape(f"{{{name}}}"), f"(?P<{name}>{values})")
    return re.compile(text)


def _renamed(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, other in rules:
        if match := pattern.fullmatch(name):
            return other.format(**match.groupdict())
    return None
