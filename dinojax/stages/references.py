"""How a stage names another: ``stage:NAME``, wherever its configuration takes a path.

``stage:pretrain`` is the folder of a stage, ``stage:pretrain/checkpoints/400`` something in it, and
``stage:distil#small`` means one of several students, as ``runs/x#small`` does.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

PREFIX = "stage:"
_REFERENCE = re.compile(r"stage:(?P<stage>\w+)(?:/(?P<path>[^#]+))?(?P<student>#.+)?")


class Reference(NamedTuple):
    """A stage, or a path below its folder; and a student, with the sign before it."""

    stage: str
    path: str
    student: str


def parse_reference(text: str) -> Reference:
    """Raises ValueError: it begins like one and is none."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is no reference; write stage:NAME, stage:NAME/PATH or stage:NAME#STUDENT"
        )
    return Reference(match["stage"], match["path"] or "", match["student"] or "")


def strings(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in nested dicts and tuples, with the dotted key that it is under."""
    if isinstance(values, str):
        yield key, values
    elif isinstance(values, dict):
        for name, value in values.items():
            yield from strings(value, f"{key}.{name}" if key else name)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from strings(value, key)


def references(values: Any) -> list[tuple[str, Reference]]:
    """All of them, with the dotted keys that they are under.

    Raises:
        ValueError: a string begins like one and is none; names the key.
    """
    found = []
    for key, text in strings(values):
        if text.startswith(PREFIX):
            try:
                found.append((key, parse_reference(text)))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
    return found


def replaced(values: Any, new: Callable[[str, str], str], key: str = "") -> Any:
    """The same nested values with each string replaced by ``new(dotted key, string)``."""
    if isinstance(values, str):
        return new(key, values)
    if isinstance(values, dict):
        return {
            name: replaced(value, new, f"{key}.{name}" if key else name)
            for name, value in values.items()
        }
    if isinstance(values, list | tuple):
        return tuple(replaced(value, new, key) for value in values)
    return values
