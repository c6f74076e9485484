"""A level of k-means between two iterations, in a file that is whole or absent."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from dinojax.curation.hierarchy import Progress
from dinojax.curation.kmeans import State
from dinojax.runtime.agreement import await_visible, from_first
from dinojax.runtime.atomic import replacing


def save_progress(path: Path, progress: Progress) -> None:
    """Bit for bit."""
    values = {name: np.asarray(value) for name, value in progress.state._asdict().items()}
    values["round"] = np.asarray(progress.round)
    if progress.previous is not None:
        values["previous"] = progress.previous
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **values)


def load_progress(path: Path) -> Progress | None:
    """What was saved; None: nothing yet."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as values:
        state = State(**{name: jnp.asarray(values[name]) for name in State._fields})
        previous = values.get("previous")
        return Progress(int(values["round"]), previous, state)


def agreed_progress(path: Path) -> Progress | None:
    """`load_progress` of what the first process sees, in every one; a barrier."""

    def position() -> list[int] | None:
        found = load_progress(path)
        return None if found is None else [found.round, int(found.state.iteration)]

    first = from_first(path.stem, position)
    await_visible(path, "process 0", lambda: position() == first)
    return load_progress(path)
