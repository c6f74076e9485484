"""What an evaluation has found so far, on disk: one that dies loses the seed it was at, no more.

One JSON file per task, and per seed of those that have seeds, named by the hash of all that it
depends on (in it under ``about``).
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging

from dinojax.runtime.atomic import replace_text
from dinojax.runtime.cluster import gather
from dinojax.runtime.fingerprints import hash_text
from dinojax.tasks.task import Score


class FinishedScores:
    """Of one task. All processes ask alike; the first one reads and writes.

    Args:
        folder: of the files, those of other tasks among them.
        about: all that the task's scores depend on; JSON values.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        self._folder, self._about = folder, about

    def scores(self, run: Callable[[], Iterable[Score]]) -> list[Score]:
        """Of the whole task: what `run` yields, unless that is known.

        Raises:
            ValueError: a file is damaged.
        """
        return [Score(*one) for one in self._once({}, lambda: list(run()))]

    def seed(self, seed: int, run: Callable[[int], Mapping[str, float]]) -> dict[str, float]:
        """Of one seed, by metric; a `dinojax.tasks.task.Keep`. Raises: as `scores`."""
        return self._once({"seed": seed}, lambda: {k: float(v) for k, v in run(seed).items()})

    def _once(self, part: Mapping[str, int], run: Callable[[], Any]) -> Any:
        about = {**self._about, **part}
        path = self._folder / f"{hash_text(json.dumps(about, sort_keys=True))}.json"
        known = ""
        if jax.process_index() == 0 and path.exists():
            known = path.read_text(encoding="utf-8")
        known = gather("finished scores", known)[0]
        if known:
            logging.info("not computed again: %s", path)
            try:
                return json.loads(known)["found"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is damaged ({error}); delete it and run again") from error
        found = run()
        if jax.process_index() == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_text(path, json.dumps({"about": about, "found": found}, indent=2) + "\n")
        return found
