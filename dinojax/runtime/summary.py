"""``summary.json``: the outcome of a finished run in a few numbers, for people and for scripts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinojax.runtime.atomic import replace_text
from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.cluster import gather
from dinojax.runtime.metrics import FILE as METRICS_FILE

FILE = "summary.json"


def first_and_last(workdir: str | Path, name: str) -> tuple[float | None, float | None]:
    """First and last value of a metric in ``metrics.jsonl``, over all attempts of the run."""
    values = []
    for line in (Path(workdir) / METRICS_FILE).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry.get(name) is not None:
            values.append(entry[name])
    return (values[0], values[-1]) if values else (None, None)


def write_summary(workdir: str | Path, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Write and return the summary of the metrics in `workdir`, with `extra` values."""
    loss_first, loss_last = first_and_last(workdir, "total_loss")
    untrained, trained = first_and_last(workdir, "knn")
    pixels, _ = first_and_last(workdir, "knn_pixels")
    summary = {
        "knn_untrained": untrained,
        "knn_pixels": pixels,
        "knn_trained": trained,
        **_of_students(workdir),
        "loss_first": loss_first,
        "loss_last": loss_last,
        **extra,
    }
    replace_text(Path(workdir) / FILE, json.dumps(summary, indent=2) + "\n")
    return summary


def finished(workdir: str | Path, checkpoints: Checkpoints, steps: int) -> dict[str, Any] | None:
    """The summary of a run that has done all of its steps; None: it has not, or tells nothing.

    In all processes, as the first one sees it.
    """
    path, summary = Path(workdir) / FILE, None
    if path.exists() and steps in checkpoints.steps():
        summary = json.loads(path.read_text(encoding="utf-8"))
    return json.loads(gather("finished", json.dumps(summary))[0])


def _of_students(workdir: str | Path) -> dict[str, float | None]:
    found = {}
    for name in _students(workdir):
        untrained, trained = first_and_last(workdir, f"{name}/knn")
        found |= {f"{name}/knn_untrained": untrained, f"{name}/knn_trained": trained}
    return found


def _students(workdir: str | Path) -> list[str]:
    """Of several in one run those that have scores, which are metrics ``NAME/knn``."""
    text = (Path(workdir) / METRICS_FILE).read_text(encoding="utf-8")
    names = {name for line in text.splitlines() for name in json.loads(line)}
    return sorted(name.removesuffix("/knn") for name in names if name.endswith("/knn"))
