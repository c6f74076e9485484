"""Entries of one layout made of those of another: renamed, side by side, filled up with zeros."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

State = dict[str, np.ndarray]
Shape = tuple[int, ...]


@runtime_checkable
class File(Protocol):
    """A state dict that knows its shapes before anything is read (`tensor_file.TensorFile`)."""

    shapes: dict[str, Shape]

    def __getitem__(self, name: str) -> np.ndarray: ...


class Kept(NamedTuple):
    """The name of what is in the file's header."""

    name: str


Part = str | Kept | Shape
"""An entry of the file by its name, one that its header holds, or the shape of zeros."""


class Packed(NamedTuple):
    """What makes up an entry.

    Attributes:
        parts: lie side by side.
        shape: of the whole.
        axis: along which the parts follow one another.
        mask: name of an entry of zeros and ones that the whole, of q, k and v, is multiplied by.
    """

    parts: tuple[Part, ...]
    shape: Shape
    axis: int = 0
    mask: str | None = None


class Repacked(Mapping[str, np.ndarray]):
    """The entries of a file under other names, each read when it is asked for.

    Attributes:
        packed: what makes up each.
        kept: what the file's header holds, by name.
        shapes: of all of them.
    """

    def __init__(self, file: File, packed: Mapping[str, Packed], kept: Mapping[str, np.ndarray]):
        self._file, self.packed, self.kept = file, packed, kept
        self.shapes = {name: one.shape for name, one in packed.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        parts, shape, axis, mask = self.packed[name]
        read = [self._read(part) for part in parts]
        dtype = next((one.dtype for one in read if one is not None), np.dtype("float32"))
        filled = [
            np.zeros(_zeros(part), dtype) if one is None else one
            for part, one in zip(parts, read, strict=True)
        ]
        whole = (filled[0] if len(filled) == 1 else np.concatenate(filled, axis)).reshape(shape)
        return whole if mask is None else self._masked(name, whole, self._file[mask])

    def __iter__(self) -> Iterator[str]:
        return iter(self.packed)

    def __len__(self) -> int:
        return len(self.packed)

    def names(self, name: str) -> list[str]:
        """Of the file's entries that make up this one."""
        return [part for part in self.packed[name].parts if isinstance(part, str)]

    def is_reshaped(self, name: str) -> bool:
        """Whether its values lie in another shape there."""
        parts, shape, *_ = self.packed[name]
        return len(parts) != 1 or self._shape_of(parts[0]) != shape

    def _shape_of(self, part: Part) -> Shape:
        if isinstance(part, Kept):
            return self.kept[part.name].shape
        return self._file.shapes[part] if isinstance(part, str) else part

    def _read(self, part: Part) -> np.ndarray | None:
        if isinstance(part, Kept):
            return self.kept[part.name]
        return self._file[part] if isinstance(part, str) else None

    def _masked(self, name: str, whole: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if mask.shape != whole.shape or len(mask) % 3 or not np.isin(mask, (0, 1)).all():
            raise ValueError(
                f"{self.packed[name].mask!r} is no mask of zeros and ones; download the file again"
            )
        q, k, v = np.split(mask, 3)
        if q.all() and not k.any() and v.all():
            return whole  # what `mask_k_bias` does in the model itself
        return np.where(mask == 0, np.zeros_like(whole), whole)


def _zeros(part: Part) -> Shape:
    assert isinstance(part, tuple) and not isinstance(part, Kept)
    return part
