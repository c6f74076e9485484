"""What a stage is given: the interface of all kinds of stages, and what they have in common."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from dinojax.config import to_dict
from dinojax.runtime.atomic import replace_text
from dinojax.runtime.summary import FILE as SUMMARY_FILE
from dinojax.stages.references import references


class Outcome(NamedTuple):
    """What a stage leaves: hashes by path in its folder, and scores by name."""

    artefacts: dict[str, str]
    scores: dict[str, float]


@runtime_checkable
class Given(Protocol):
    """What a stage is given. Strings in it may name other stages (`references`)."""

    @property
    def checkpoint_keys(self) -> tuple[str, ...]:
        """Dotted keys that may also name a file or a run outside of the pipeline."""
        ...

    def check(self, others: Mapping[str, "Given"]) -> None:
        """Raises ValueError or FileNotFoundError: it cannot run, whatever its parents leave."""
        ...

    def settings(self) -> dict[str, Any]:
        """All that the outcome depends on by dotted key, apart from the records."""
        ...

    def records(self, others: Mapping[str, "Given"]) -> str | None:
        """Fingerprint of the data; None: it reads none."""
        ...

    def command(self, folder: Path, launcher: tuple[str, ...]) -> list[str]:
        """What to run, once no references are left in it and the folder has its record."""
        ...

    def finish(self, folder: Path) -> Outcome:
        """Read what the command has left, and see to the summary.

        Raises:
            ValueError or FileNotFoundError: it is not all there.
        """
        ...


def reads_stage(given: Given) -> bool:
    """Whether its records come from another stage, and so cannot be looked at before."""
    values = to_dict(given)
    return any(key.startswith(("config.data.", "data", "source")) for key, _ in references(values))


def write_summary(folder: Path, values: dict[str, float]) -> None:
    replace_text(folder / SUMMARY_FILE, json.dumps(values, indent=2) + "\n")


def python(module: str) -> list[str]:
    return [sys.executable, "-m", f"dinojax.{module}"]


def flags(options: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items() if value is not None]
