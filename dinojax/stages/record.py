"""``stage.json`` in the folder of a stage: what it was given, and what it has left once it is done.

Written whole before the stage starts, without an outcome, and again after its end. A folder whose
record is absent, unreadable or without an outcome holds nothing that anyone may use.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from dinojax.runtime.atomic import replace_text
from dinojax.runtime.fingerprints import hash_text

FILE = "stage.json"


class Inputs(NamedTuple):
    """What the outcome of a stage depends on, and nothing else."""

    kind: str
    settings: dict[str, Any]
    """By dotted key; where another stage was named, its hash."""
    records: str | None
    """Fingerprint of the data."""

    @property
    def key(self) -> str:
        """16 hex digits: stages of one key have one outcome."""
        return hash_text(json.dumps(self, sort_keys=True))


def make_record(
    name: str, inputs: Inputs, parents: list[dict[str, str]], given: dict[str, Any]
) -> dict[str, Any]:
    """Of a stage that begins.

    Args:
        parents: ``{"key", "reference", "hash"}`` of everything that the stage takes from others.
        given: to the stage, without references.
    """
    return {
        "stage": name,
        "key": inputs.key,
        "inputs": inputs._asdict(),
        "parents": parents,
        "given": given,
        "done": None,
    }


def read_record(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The record of a stage; None: there is none, or it is no record any more."""
    try:
        record = json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
        if Inputs(**record["inputs"]).key != record["key"]:
            return None
        return record if {"given", "parents", "done"} <= record.keys() else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_record(folder: str | os.PathLike[str], record: dict[str, Any]) -> None:
    replace_text(Path(folder) / FILE, json.dumps(record, indent=1) + "\n")
