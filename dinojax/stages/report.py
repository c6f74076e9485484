"""``pipeline.json``: stages, artefacts with the hashes of what they were made from, and scores."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinojax.runtime.atomic import replace_text
from dinojax.stages.declare import Stage
from dinojax.stages.examine import Verdict

FILE = "pipeline.json"


def write_report(
    stages: Sequence[Stage], verdicts: Mapping[str, Verdict], path: Path
) -> dict[str, Any]:
    """Write and return it; stages that are not in `verdicts` are still to come."""
    rows = [_row(stage, verdicts.get(stage.name)) for stage in stages]
    found = {
        "stages": rows,
        "artefacts": [
            {
                "path": f"{row['name']}/{artefact}",
                "hash": digest,
                "parents": list(dict.fromkeys(parent["hash"] for parent in row["parents"])),
            }
            for row in rows
            for artefact, digest in row["artefacts"].items()
        ],
    }
    replace_text(path, json.dumps(found, indent=1) + "\n")
    return found


def _row(stage: Stage, verdict: Verdict | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": stage.name, "kind": stage.kind, "state": "to come"}
    row |= {"key": None, "parents": [], "data_fingerprint": None}
    if verdict is not None and verdict.begin is not None:
        row |= {
            "state": "begun",
            "key": verdict.begin["key"],
            "parents": verdict.begin["parents"],
            "data_fingerprint": verdict.begin["inputs"]["records"],
        }
    row |= {"hash": None, "artefacts": {}, "scores": {}, "seconds": None}
    if verdict is not None and verdict.done is not None:
        row |= {"state": "done", "hash": verdict.hash, **verdict.done["done"]}
    return row


def table(verdicts: Sequence[Verdict]) -> str:
    """What is done, and what would run and why."""
    width = max(len(verdict.stage.name) for verdict in verdicts)
    return "\n".join(
        f"{one.stage.name:<{width}}  {one.stage.kind:<9}  "
        + (f"done    {one.hash}" if one.done else f"to run  {one.reason}")
        for one in verdicts
    )


def scores_table(report: Mapping[str, Any]) -> str:
    """The scores of each stage."""
    lines = []
    for row in report["stages"]:
        lines.append(f"{row['name']}  {row['hash']}")
        for name, value in row["scores"].items():
            lines.append(f"{name:>28}  {value:.4f}" if isinstance(value, float) else "")
    return "\n".join(line for line in lines if line)
