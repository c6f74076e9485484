"""A file of the reference as values by dotted key, which remember what has been asked for."""

import re
from typing import Any

import yaml

from dinojax.reference_yaml.defaults import DEFAULTS, MARKS
from dinojax.runtime.contract import flatten

_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""What YAML 1.1 takes for a text, and the reference's reader for a number."""


class Values:
    """What a file says, and what its system takes for the rest.

    Attributes:
        given: the file's own values by dotted key.
        used: keys that have been read.
    """

    def __init__(self, given: dict[str, Any], system: str):
        self.given, self.system = given, system
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.used.add(key)
        return self.given[key] if key in self.given else DEFAULTS[self.system][key]

    def number(self, key: str) -> float:
        """Raises ValueError: it is none."""
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{key}={value!r} is no number")
        return float(value)

    def count(self, key: str) -> int:
        """Raises ValueError: it is no whole number."""
        value = self.number(key)
        if value != int(value):
            raise ValueError(f"{key}={value!r} is no whole number")
        return int(value)

    def get(self, key: str, otherwise: Any = None) -> Any:
        """Of a key that may be absent and need not have a default."""
        self.used.add(key)
        return self.given.get(key, DEFAULTS[self.system].get(key, otherwise))

    def has_section(self, name: str) -> bool:
        return any(key.startswith(f"{name}.") for key in self.given)


def read_values(text: str, system: str | None = None) -> Values:
    """Of a YAML file's text.

    Args:
        system: "dinov3" or "dinov2"; None: the one that its keys are of.

    Raises:
        ValueError: no YAML, no table of keys, or keys that are of both systems alike.
    """
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"this is no YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(found, dict):
        raise ValueError(f"this is no table of keys, but {type(found).__name__}")
    given = {key: _number(value) for key, value in flatten(_texts(found)).items()}
    if system is None:
        system = next((name for name, mark in MARKS.items() if _any(mark, given)), None)
    if system is None:
        raise ValueError("its keys are those of both systems; say which, as --system=dinov2")
    return Values(given, system)


def _texts(node: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(key): _texts(value) if isinstance(value, dict) else value for key, value in node.items()
    }


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(one) for one in value]
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _any(pattern: str, given: dict[str, Any]) -> bool:
    return any(re.fullmatch(pattern, key) for key in given)
