"""A level of k-means between two steps, in a file that is whole or absent."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from dinojax.curation.hierarchy import Progress, Splits
from dinojax.curation.kmeans import State
from dinojax.curation.seeding import Seeding
from dinojax.runtime.agreement import await_visible, from_first
from dinojax.runtime.atomic import replacing
from dinojax.runtime.fingerprints import hash_file

KINDS = {kind.__name__: kind for kind in (Seeding, State)}


def save_progress(path: Path, progress: Progress) -> None:
    """Bit for bit."""
    state = progress.state
    values = {"kind": type(state).__name__, "round": progress.round}
    if progress.previous is not None:
        values["previous"] = progress.previous
    if isinstance(state, Splits):
        values["parts"] = [len(some) for some in state.centers]
        values["centers"] = np.concatenate(state.centers)
    else:
        values |= state._asdict()
    with replacing(path) as file:
        arrays = {name: np.asarray(value) for name, value in values.items()}
        np.savez(file, allow_pickle=False, **arrays)


def load_progress(path: Path) -> Progress | None:
    """What was saved; None: nothing yet."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as file:
        values = dict(file)
    kind = KINDS.get(str(values["kind"]))
    if kind is None:
        ends = np.cumsum(values["parts"])
        state = Splits(tuple(np.split(values["centers"], ends[:-1])))
    else:
        state = kind(**{name: jnp.asarray(values[name]) for name in kind._fields})
    return Progress(int(values["round"]), values.get("previous"), state)


def agreed_progress(path: Path) -> Progress | None:
    """`load_progress` of what the first process sees, in every one; a barrier."""

    def seen() -> str | None:
        return hash_file(path) if path.exists() else None

    first = from_first(path.stem, seen)
    await_visible(path, "process 0", lambda: seen() == first)
    return load_progress(path)
