"""Entries of one layout made of those of another: renamed, side by side, filled up with zeros."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

Shape = tuple[int, ...]


@runtime_checkable
class File(Protocol):
    """A state dict that knows its shapes before anything is read (`tensor_file.TensorFile`)."""

    shapes: dict[str, Shape]

    def __getitem__(self, name: str) -> np.ndarray: ...


class Packed(NamedTuple):
    """What makes up an entry.

    Attributes:
        parts: names of entries there, which lie side by side, and shapes of what is zero.
        shape: of the whole.
        axis: along which the parts follow one another.
        mask: name of an entry of zeros and ones that the whole, of q, k and v, is multiplied by.
    """

    parts: tuple[str | Shape, ...]
    shape: Shape
    axis: int = 0
    mask: str | None = None

    @property
    def names(self) -> list[str]:
        """Of the entries there."""
        return [part for part in self.parts if isinstance(part, str)]


class Repacked(Mapping[str, np.ndarray]):
    """The entries of a file under other names, each read when it is asked for.

    Attributes:
        packed: what makes up each.
        shapes: of all of them.
    """

    def __init__(self, file: File, packed: Mapping[str, Packed]):
        self._file, self.packed = file, packed
        self.shapes = {name: one.shape for name, one in packed.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        parts, shape, axis, mask = self.packed[name]
        if len(parts) == 1 and isinstance(parts[0], str):
            whole = self._file[parts[0]].reshape(shape)
        else:
            read = {part: self._file[part] for part in parts if isinstance(part, str)}
            dtype = next(iter(read.values())).dtype
            filled = [read[p] if isinstance(p, str) else np.zeros(p, dtype) for p in parts]
            whole = np.concatenate(filled, axis)
        return whole if mask is None else self._masked(name, whole, self._file[mask])

    def __iter__(self) -> Iterator[str]:
        return iter(self.packed)

    def __len__(self) -> int:
        return len(self.packed)

    def is_reshaped(self, name: str) -> bool:
        """Whether its values lie in another shape there."""
        parts = self.packed[name].parts
        return len(parts) != 1 or self._file.shapes[str(parts[0])] != self.shapes[name]

    def _masked(self, name: str, whole: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if mask.shape != whole.shape or len(mask) % 3 or not np.isin(mask, (0, 1)).all():
            raise ValueError(
                f"{self.packed[name].mask!r} is no mask of zeros and ones for {name!r}; download "
                "the file again"
            )
        q, k, v = np.split(mask, 3)
        if q.all() and not k.any() and v.all():
            return whole  # what `mask_k_bias` does in the model itself
        return np.where(mask == 0, np.zeros_like(whole), whole)
