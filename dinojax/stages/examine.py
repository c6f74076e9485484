"""Which stages are done, and why the others are not: nothing is run or changed here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dinojax.config import to_dict
from dinojax.config.parse import parse
from dinojax.runtime.contract import changes
from dinojax.runtime.earlier import STUDENT
from dinojax.runtime.errors import CheckpointError
from dinojax.runtime.fingerprints import hash_text
from dinojax.stages.artefacts import hash_artefact
from dinojax.stages.declare import Stage
from dinojax.stages.given import Given, reads_stage
from dinojax.stages.record import Inputs, make_record, read_record
from dinojax.stages.references import PREFIX, parse_reference, replaced

SHOWN = 3


class Verdict(NamedTuple):
    """On one stage."""

    stage: Stage
    begin: dict[str, Any] | None
    """The record to begin it with; None: it cannot be told before its parents are done."""
    placed: Given | None
    """What it is given, with paths in place of references; None likewise."""
    done: dict[str, Any] | None
    """The record that it has ended with, if what it has left is still there."""
    reason: str
    """Why it is to run; empty: it is not."""

    @property
    def hash(self) -> str:
        """Of all that a stage that is done has left."""
        assert self.done is not None
        return whole_hash(self.done["done"]["artefacts"])


def whole_hash(artefacts: Mapping[str, str]) -> str:
    return hash_text("\n".join(f"{path} {artefacts[path]}" for path in sorted(artefacts)))


def examine(stage: Stage, workdir: Path, earlier: Mapping[str, Verdict]) -> Verdict:
    """A stage whose parents are in `earlier`.

    Raises:
        ValueError, FileNotFoundError: its data, or what it takes from outside, cannot be read; or a
            parent has not left what the stage names.
    """
    waits = [parent for parent in stage.parents if earlier[parent].done is None]
    if waits:
        return Verdict(stage, None, None, None, f"after {', '.join(waits)}")
    given = {name: verdict.stage.given for name, verdict in earlier.items()}
    parents: dict[tuple[str, str], str] = {}

    def hashed(key: str, text: str) -> str:
        found = _hash(stage, key, text, workdir, earlier)
        if found is None:
            return text
        parents[key, text] = found
        return f"{text if text.startswith(PREFIX) else ''}@{found}"

    settings, usual = _settings(_parsed(stage, hashed)), _settings(type(stage.given)())
    settings = {key: value for key, value in settings.items() if value != usual.get(key)}
    placed = _parsed(stage, lambda _, text: _path(text, workdir))
    inputs = Inputs(stage.kind, settings, _records(stage, placed, given))
    named = [
        {"key": key, "reference": text, "hash": found} for (key, text), found in parents.items()
    ]
    begin = make_record(stage.name, inputs, named, to_dict(placed))
    before = read_record(workdir / stage.name)
    reason = _why(workdir / stage.name, before, begin, usual)
    return Verdict(stage, begin, placed, None if reason else before, reason)


def _records(stage: Stage, placed: Given, others: Mapping[str, Given]) -> str | None:
    """Where its data are, the declaration says; a run's own word for it may be an old one."""
    return (placed if reads_stage(stage.given) else stage.given).records(others)


def _settings(given: Given) -> dict[str, Any]:
    """As a file holds them."""
    return json.loads(json.dumps(given.settings()))


def _why(
    folder: Path, before: dict[str, Any] | None, begin: dict[str, Any], usual: dict[str, Any]
) -> str:
    """Why a stage is to run, from what its folder holds."""
    if before is None:
        return f"{folder} has no record of it" if _has_content(folder) else "never run"
    if before["key"] != begin["key"]:
        return _differences(before["inputs"], begin["inputs"], usual)
    if before["done"] is None:
        return "begun, not finished"
    return _lost(folder, before["done"]["artefacts"])


def _hash(
    stage: Stage, key: str, text: str, workdir: Path, earlier: Mapping[str, Verdict]
) -> str | None:
    """Of what a string in a stage's settings names; None: it names nothing."""
    if text.startswith(PREFIX):
        name, path, _ = parse_reference(text)
        if not path:
            return earlier[name].hash
        try:
            return hash_artefact(workdir / name / path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"stage {stage.name}: {key}={text!r}, and stage {name} has left no {path}; it has "
                f"{list((earlier[name].done or {})['done']['artefacts'])}"
            ) from error
    path = Path(text.partition(STUDENT)[0])
    if key in stage.given.checkpoint_keys and path.exists():
        return hash_artefact(path)
    return None


def _path(text: str, workdir: Path) -> str:
    if not text.startswith(PREFIX):
        return text
    name, path, student = parse_reference(text)
    return f"{workdir / name / path}{student}"


def _parsed(stage: Stage, new: Any) -> Given:
    return parse(type(stage.given), replaced(to_dict(stage.given), new))


def _has_content(folder: Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def _differences(before: dict[str, Any], now: dict[str, Any], usual: dict[str, Any]) -> str:
    found = changes({**usual, **before["settings"]}, {**usual, **now["settings"]}) + changes(
        {"data fingerprint": before["records"], "kind": before["kind"]},
        {"data fingerprint": now["records"], "kind": now["kind"]},
    )
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _lost(folder: Path, artefacts: Mapping[str, str]) -> str:
    """What is no longer as the stage has left it, in words."""
    for path, expected in artefacts.items():
        try:
            if hash_artefact(folder / path) != expected:
                return f"{path} is not what it has left"
        except (OSError, CheckpointError) as error:
            return str(error)
    return ""
