"""A level of k-means between two steps, in files that are whole or absent.

Splits are many, and stay as they are: each save adds a file with those that are new.
"""

from pathlib import Path
from typing import Any

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
    """Bit for bit. After one of splits, others are further ones of the same level."""
    state = progress.state
    values = {"kind": type(state).__name__, "round": progress.round}
    if progress.previous is not None:
        values["previous"] = progress.previous
    if not isinstance(state, Splits):
        _write(path, values | state._asdict())
        return
    done = max(split_files(path), default=0)
    if not done:
        _write(path, values)
    new, count = state.centers[done:], len(state.centers)
    if new:
        values = {"parts": [len(some) for some in new], "centers": np.concatenate(new)}
        _write(path.with_name(f"{path.stem}-splits-{count}.npz"), values)


def _write(path: Path, values: dict[str, Any]) -> None:
    with replacing(path) as file:
        arrays = {name: np.asarray(value) for name, value in values.items()}
        np.savez(file, allow_pickle=False, **arrays)


def split_files(path: Path) -> dict[int, Path]:
    """In their order, by how many coarse clusters have been split with the last one in a file."""
    found = path.parent.glob(f"{path.stem}-splits-*.npz")
    return dict(sorted((int(one.stem.rpartition("-")[2]), one) for one in found))


def drop_progress(path: Path) -> None:
    """Once the level is done."""
    for one in (path, *split_files(path).values()):
        one.unlink(missing_ok=True)


def load_progress(path: Path) -> Progress | None:
    """What was saved; None: nothing yet."""
    if not path.exists():
        return None
    values = _read(path)
    kind = KINDS.get(str(values["kind"]))
    if kind is None:
        state = Splits(tuple(part for one in split_files(path).values() for part in _parts(one)))
    else:
        state = kind(**{name: jnp.asarray(values[name]) for name in kind._fields})
    return Progress(int(values["round"]), values.get("previous"), state)


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _parts(path: Path) -> list[np.ndarray]:
    values = _read(path)
    return np.split(values["centers"], np.cumsum(values["parts"])[:-1])


def agreed_progress(path: Path) -> Progress | None:
    """`load_progress` of what the first process sees, in every one; a barrier."""

    def seen() -> list[str] | None:
        further = [one.name for one in split_files(path).values()]
        return [hash_file(path), *further] if path.exists() else None

    first = from_first(path.stem, seen)
    await_visible(path, "process 0", lambda: seen() == first)
    return load_progress(path)
