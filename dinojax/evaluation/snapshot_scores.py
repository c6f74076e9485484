"""Which snapshot of a run to anchor to: scores, their order, and the file that keeps them.

Snapshots are ordered by dense quality alone: by mIoU where there are maps, else or on request by
locality (`dinojax.evaluation.locality`); of equal ones the later comes first. kNN and drift are
shown beside and decide nothing, since what Gram anchoring (DINOv3, section 4.2) takes from its
teacher is the similarity of patches, and the student has better global features already.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from dinojax.runtime.atomic import replace_text

FILE = "snapshots.json"
CRITERIA = ("miou", "locality")
"""The first that all snapshots have orders them, unless one is asked for."""


class Snapshot(NamedTuple):
    """One that has been scored."""

    step: int
    fingerprint: str
    """Of its weights (`dinojax.runtime.stored_state.fingerprint`)."""
    scores: dict[str, float]


class Table(NamedTuple):
    """Scores that can be compared, in the order of the steps."""

    protocol: dict[str, Any]
    """What they depend on besides the weights; JSON values."""
    snapshots: tuple[Snapshot, ...] = ()
    by: str | None = None
    """The score that orders them; None: the first of `CRITERIA`."""

    @property
    def criterion(self) -> str:
        """The score that orders them.

        Raises:
            ValueError: not all snapshots have the score that orders them.
        """
        wanted = CRITERIA if self.by is None else (self.by,)
        for name in wanted:
            if name in CRITERIA and all(name in one.scores for one in self.snapshots):
                return name
        raise ValueError(
            f"snapshots cannot be ordered by {' or '.join(wanted)}, which not all have; use one of "
            f"{CRITERIA} (miou needs images with segmentation maps)"
        )

    def ranked(self, last_step: int | None = None) -> list[Snapshot]:
        """The best first, of those up to `last_step`."""
        known = [one for one in self.snapshots if last_step is None or one.step <= last_step]
        name = self.criterion
        return sorted(known, key=lambda one: (one.scores[name], one.step), reverse=True)

    def of(self, step: int, fingerprint: str) -> Snapshot | None:
        """The entry of these weights, if they have been scored."""
        return next((one for one in self.snapshots if one[:2] == (step, fingerprint)), None)


def write_table(workdir: str | Path, table: Table) -> None:
    """Write ``WORKDIR/snapshots.json``; ``recommended`` there is the step of the best snapshot."""
    content = {
        "criterion": table.criterion,
        "recommended": table.ranked()[0].step,
        "protocol": table.protocol,
        "snapshots": [one._asdict() for one in table.snapshots],
    }
    replace_text(Path(workdir) / FILE, json.dumps(content, indent=2) + "\n")


def read_table(workdir: str | Path) -> Table | None:
    """What `write_table` has written; None: nothing.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(workdir) / FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        snapshots = tuple(
            Snapshot(int(one["step"]), str(one["fingerprint"]), dict(one["scores"]))
            for one in content["snapshots"]
        )
        table = Table(dict(content["protocol"]), snapshots, str(content["criterion"]))
        table.ranked()
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it and score the "
            "snapshots again"
        ) from error
    return table


def as_text(table: Table) -> str:
    """The ranking for people: one line each, the best first."""
    names = [name for name in COLUMNS if any(name in one.scores for one in table.snapshots)]
    lines = ["rank      step" + "".join(f"{COLUMNS[name]:>10}" for name in names)]
    for rank, one in enumerate(table.ranked(), 1):
        values = (f"{one.scores[n]:10.4f}" if n in one.scores else " " * 10 for n in names)
        lines.append(f"{rank:>4}  {one.step:>8}{''.join(values)}")
    return "\n".join(lines)


COLUMNS = {"miou": "mIoU", "locality": "locality", "drift": "drift", "knn": "kNN"}
"""Headings by score."""
