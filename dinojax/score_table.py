"""Scores as Markdown, for people."""

import json
from collections.abc import Sequence
from typing import Any


def markdown(found: dict[str, Any], published: Sequence[tuple[str, str, float, str]] = ()) -> str:
    """One line per score of ``scores.json``, and the protocols below.

    Args:
        published: (architecture, TASK_METRIC, value, source); those of this architecture get a
            column.
    """
    theirs = {
        name: (value, where) for arch, name, value, where in published if arch == found["arch"]
    }
    heading = ["task", "metric", "value", "spread", *(["published"] if theirs else []), "protocol"]
    lines = [_row(heading), _row(["---"] * len(heading))]
    for score in found["scores"]:
        known = theirs.get(f"{score['task']}_{score['metric']}")
        lines.append(
            _row(
                [
                    score["task"],
                    score["metric"],
                    f"{score['value']:.4f}",
                    "" if score["spread"] is None else f"{score['spread']:.4f}",
                    *([f"{known[0]:.4f} ({known[1]})" if known else ""] if theirs else []),
                    f"`{score['protocol_hash']}`",
                ]
            )
        )
    parts = ", ".join(f"{one['records']} {part}" for part, one in found["data"].items())
    lines += ["", f"Checkpoint `{found['checkpoint_fingerprint']}` ({found['arch']}); {parts}.", ""]
    lines += [f"* `{name}`: {json.dumps(one)}" for name, one in found["protocols"].items()]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
