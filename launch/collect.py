"""The runs below a directory as a table: what differs between them, and how they ended.

What differs is taken from the configurations that were run (``config.json``), not from the sweep
file, which may have changed since.
"""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from dinojax.runtime.contract import DATA, flatten, read_contract
from dinojax.runtime.contract import FILE as CONFIG_FILE
from dinojax.runtime.summary import FILE as SUMMARY_FILE

Row = dict[str, Any]


def collect(root: str, sort: str) -> list[Row]:
    """One row per run with equal columns: ``run``, keys that differ, metrics.

    Args:
        sort: metric, the highest first; with a minus before it the lowest first. Runs that have
            no value of it, such as unfinished ones, come last.

    Raises:
        ValueError: no run, or none has this metric.
    """
    found = Path(root).glob(f"**/{CONFIG_FILE}")
    # Other programs call a file so too, as in an export for Hugging Face.
    workdirs = sorted(path.parent for path in found if DATA.encode() in path.read_bytes())
    if not workdirs:
        raise ValueError(f"no run below {root}; give the --workdir of a sweep that was started")
    configs = [flatten(read_contract(workdir)["config"]) for workdir in workdirs]
    keys = sorted({key for config in configs for key in config})
    differing = [key for key in keys if len({json.dumps(c.get(key)) for c in configs}) > 1]
    summaries = [_summary(workdir) for workdir in workdirs]
    metrics = list(dict.fromkeys(name for summary in summaries for name in summary))
    metric = sort.removeprefix("-")
    if metrics and metric not in metrics:
        raise ValueError(f"no run has the metric {metric!r} to sort by; use one of {metrics}")
    rows = [
        {"run": str(workdir.relative_to(root))}
        | {key: config.get(key) for key in differing}
        | {name: summary.get(name) for name in metrics}
        for workdir, config, summary in zip(workdirs, configs, summaries, strict=True)
    ]
    sign = 1 if sort.startswith("-") else -1
    return sorted(rows, key=lambda row: _rank(row.get(metric), sign))


def _summary(workdir: Path) -> Row:
    path = workdir / SUMMARY_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _rank(value: float | None, sign: int) -> tuple[bool, float]:
    if value is None or math.isnan(value):
        return True, 0.0
    return False, sign * value


def as_markdown(rows: list[Row]) -> str:
    """For people: four significant digits, a dash for what is missing."""
    header = list(rows[0])
    cells = [header, ["---"] * len(header), *([_cell(v) for v in row.values()] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def as_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(rows: list[Row]) -> str:
    return json.dumps(rows, indent=2) + "\n"


FORMATS = {"markdown": as_markdown, "csv": as_csv, "json": as_json}
