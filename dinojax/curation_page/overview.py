"""All stages at a glance: what went in, what came out, and with which inputs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinojax.curation.stage_folder import REPORT
from dinojax.curation_page.sections import charts
from dinojax.pictures import bars
from dinojax.pictures.page import table
from dinojax.runtime.contract import flatten

ORDER = ("embed", "dedup", "cluster", "sample", "retrieve", "mix")
"""Of stages; others follow by name."""
APART = ("outputs", "levels", "balance")
"""What of a report is not in its details: hashes, and what has tables of its own."""


def finished(workdir: Path) -> dict[str, dict[str, Any]]:
    """Reports of the stages that are finished, in the order of their work.

    Raises:
        FileNotFoundError: none is.
    """
    names = [path.parent.name for path in workdir.glob(f"*/{REPORT}")]
    if not names:
        raise FileNotFoundError(
            f"{workdir} has no finished stage to show; run python -m dinojax.curate dedup first"
        )
    place = {name: number for number, name in enumerate(ORDER)}
    names.sort(key=lambda name: (place.get(name.partition("-")[0], len(ORDER)), name))
    return {
        name: json.loads((workdir / name / REPORT).read_text(encoding="utf-8")) for name in names
    }


def overview(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The section."""
    head = ("stage", "in", "out", "share", "seconds", "fingerprint")
    rows, names, before, after = [], [], [], []
    for stage, report in reports.items():
        counted = _counted(stage, report)
        seconds = report.get("seconds", {}).get("all")
        about = ("" if seconds is None else f"{seconds:.1f}", str(report.get("fingerprint", "")))
        for name, (old, new) in counted.items():
            share = f"{100 * new / old:.1f} %" if old else ""
            rows.append((name, f"{old:,}", f"{new:,}", share, *about))
            about = ("", "")
        if not counted:
            rows.append((stage, "", "", "", *about))
        names += counted
        before += [old for old, _ in counted.values()]
        after += [new for _, new in counted.values()]
    chart = charts(bars.rows("Records", names, before, after)) if names else ""
    return f"<section><h2>Stages</h2>{table(head, rows, numbers=(1, 2, 3, 4))}{chart}</section>"


def _counted(stage: str, report: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(in, out) of a stage, or of each of its parts where these are counted."""
    parts = {stage: report}
    if "rows_in" not in report:
        inner = [value for value in report.values() if isinstance(value, dict)]
        parts = {f"{stage} {name}": one for value in inner for name, one in value.items()}
    return {
        name: (one["rows_in"], one["rows_out"])
        for name, one in parts.items()
        if isinstance(one, Mapping) and {"rows_in", "rows_out"} <= one.keys()
    }


def details(report: Mapping[str, Any]) -> str:
    """All numbers of a report, to unfold."""
    flat = flatten({name: value for name, value in report.items() if name not in APART})
    rows = [(key, _text(value)) for key, value in flat.items()]
    return f"<details><summary>Inputs and counts</summary>{table(('', ''), rows)}</details>"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return value if isinstance(value, str) else json.dumps(value)
