"""Between nested frozen dataclasses and ``ConfigDict``: any schema, checked key by key."""

import dataclasses
import difflib
import keyword
import types
import typing
from collections.abc import Sequence
from typing import Any

import ml_collections
from ml_collections import config_dict


def key_of(field: str) -> str:
    """The key of a field: without the underscore at the end of names that Python keeps to itself.

    So ``from_`` is ``--config.init.from``, and ``config.init["from"]`` in a recipe.
    """
    return field.removesuffix("_")


def quote_keywords(argv: Sequence[str]) -> list[str]:
    """Arguments with ``--config.init.from=x`` as ml_collections reads it, ``config.init["from"]``.

    It takes the name of a flag for Python, where keywords are no attributes.
    """
    quoted = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        if name.startswith("--config."):
            head, *keys = name.split(".")
            name = head + "".join(f'["{k}"]' if keyword.iskeyword(k) else f".{k}" for k in keys)
        quoted.append(name + equals + value)
    return quoted


def to_config_dict(node: Any) -> ml_collections.ConfigDict:
    """A dataclass as a ConfigDict; values that may be None keep their type in a placeholder.

    A ConfigDict knows one type per key: those of several types take any value, until `parse`.
    """
    out = ml_collections.ConfigDict()
    hints = typing.get_type_hints(type(node))
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        name = key_of(item.name)
        if dataclasses.is_dataclass(value):
            value = to_config_dict(value)
        else:
            kinds = [t for t in typing.get_args(hints[item.name]) if t is not type(None)]
            if isinstance(hints[item.name], types.UnionType) and len(kinds) > 1:
                value = config_dict.FieldReference(value, field_type=object)
            elif value is None:
                value = config_dict.placeholder(typing.get_origin(kinds[0]) or kinds[0])
        out[name] = value
    return out


def parse(kind: type, values: Any, where: str = "") -> Any:
    """A dataclass from nested dicts; keys that are absent keep their defaults.

    Args:
        where: dotted path of this section, with a dot at the end, for messages.

    Raises:
        ValueError: an unknown key (with the nearest known one) or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"config {where or 'root'} must be a section with keys, not {values!r}")
    hints = {key_of(name): hint for name, hint in typing.get_type_hints(kind).items()}
    names = {key_of(item.name): item.name for item in dataclasses.fields(kind)}
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {where}{near[0]}?" if near else f"; known: {sorted(hints)}"
            raise ValueError(f"config has an unknown key {where}{key}{hint}")
    parsed = {}
    for key, value in values.items():
        name, hint = f"{where}{key}", hints[key]
        if dataclasses.is_dataclass(hint):
            parsed[names[key]] = parse(typing.cast(type, hint), value, f"{name}.")
        else:
            parsed[names[key]] = _check_type(value, hint, name)
    return kind(**parsed)


def _check_type(value: Any, hint: Any, name: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            elements = typing.get_args(option)
            if elements[-1] is Ellipsis:
                elements = elements[:1] * len(value)
            if len(value) == len(elements):
                pairs = enumerate(zip(value, elements, strict=True))
                return tuple(_check_type(v, kind, f"{name}[{i}]") for i, (v, kind) in pairs)
        elif option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif (
            isinstance(option, type)
            and isinstance(value, option)
            and (option is not int or not isinstance(value, bool))
        ):
            return value
    raise ValueError(f"config {name}={value!r} has the wrong type; it must be {hint}")
