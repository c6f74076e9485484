"""All stages at a glance: what went in, what came out, and with which inputs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinojax.curation.stage_folder import REPORT
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
    names.sort(key=lambda name: (place.get(name, len(ORDER)), name))
    return {
        name: json.loads((workdir / name / REPORT).read_text(encoding="utf-8")) for name in names
    }


def overview(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The section."""
    head = ("stage", "in", "out", "share", "seconds", "fingerprint")
    rows = []
    for name, report in reports.items():
        before, after = report.get("rows_in"), report.get("rows_out")
        share = f"{100 * after / before:.1f} %" if before and after is not None else ""
        seconds = report.get("seconds", {}).get("all")
        rows.append(
            (
                name,
                "" if before is None else f"{before:,}",
                "" if after is None else f"{after:,}",
                share,
                "" if seconds is None else f"{seconds:.1f}",
                str(report.get("fingerprint", "")),
            )
        )
    return (
        f"<section><h2>Stages</h2>{table(head, rows, numbers=(1, 2, 3, 4))}"
        f'<div class="charts">{_chart(reports)}</div></section>'
    )


def _chart(reports: Mapping[str, Mapping[str, Any]]) -> str:
    counted = {n: r for n, r in reports.items() if "rows_in" in r and "rows_out" in r}
    if not counted:
        return ""
    ends = ([one[key] for one in counted.values()] for key in ("rows_in", "rows_out"))
    return bars.rows("Records", list(counted), *ends)


def details(report: Mapping[str, Any]) -> str:
    """All numbers of a report, to unfold."""
    flat = flatten({name: value for name, value in report.items() if name not in APART})
    rows = [(key, _text(value)) for key, value in flat.items()]
    return f"<details><summary>Inputs and counts</summary>{table(('', ''), rows)}</details>"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return value if isinstance(value, str) else json.dumps(value)
