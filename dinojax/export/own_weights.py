"""Files under the names and in the layouts that parameters have here, as official entries."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from dinojax.export.names import Leaf, leaves_of, nest
from dinojax.export.packed import File, Shape


def is_own(names: Mapping[str, object]) -> bool:
    """Whether these are paths of ours (`dinojax.trees`)."""
    return any("/" in name for name in names)


class Entry(NamedTuple):
    """An official entry and the leaf that it is in."""

    leaf: str
    shape: Shape


class OwnWeights(Mapping[str, np.ndarray]):
    """The entries of a file under the official names; what we do not have keeps its name."""

    def __init__(self, file: File):
        self._file = file
        self._leaves: dict[str, Leaf] = {}
        self._found: dict[str, Entry] = {}
        for path, shape in file.shapes.items():
            entries = {path: Entry(path, shape)}
            try:
                (leaf,) = leaves_of(nest({path: jax.ShapeDtypeStruct(shape, np.float32)}))
                entries = dict.fromkeys(leaf.names, Entry(path, leaf.entry_shape))
                self._leaves[path] = leaf
            except (ValueError, IndexError):  # no path of ours, or with other axes
                pass
            for name in entries.keys() & self._found.keys():
                raise ValueError(
                    f"entries {self._found[name].leaf!r} and {path!r} are both {name!r}"
                )
            self._found |= entries
        self.shapes = {name: one.shape for name, one in self._found.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        path = self._found[name].leaf
        value = self._file[path]
        return self._leaves[path].entries(value)[name] if path in self._leaves else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def names(self, name: str) -> list[str]:
        """Of what makes up an entry."""
        return [self._found[name].leaf]

    def is_reshaped(self, name: str) -> bool:
        """Whether its values lie in another shape here."""
        one = self._found[name]
        return self._file.shapes[one.leaf] != one.shape
