"""What became of every entry when weights changed hands, and a checksum of the result.

A conversion is a bijection or it says where it is not: entries that nothing gave are missing,
entries that nothing took are unexpected, and either makes it unclean unless allowed by name.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import numpy as np

SHOWN = 5


@dataclass(frozen=True)
class Audit:
    """Of one conversion; every list is sorted, names are those of the side that has the entry.

    Attributes:
        loaded: entries that the model took, by their official names; those of `reshaped` too.
        reshaped: of these, the ones whose values lay in another shape, fused or with an axis more.
        missing: official names of what the model has and the other side lacks.
        unexpected: names that the model has no place for; constants (`names.BUFFERS`) excepted.
        checksum: `checksum` of the tensors in the official layout.
    """

    loaded: list[str]
    reshaped: list[str]
    missing: list[str]
    unexpected: list[str]
    checksum: str

    def faults(self, allowed: Collection[str] = ()) -> list[str]:
        """The missing and the unexpected, without those that are `allowed` by name."""
        return [name for name in (*self.missing, *self.unexpected) if name not in allowed]

    def clean(self, allowed: Collection[str] = ()) -> bool:
        """Whether nothing is missing or unexpected that is not `allowed` by name."""
        return not self.faults(allowed)

    def summary(self) -> str:
        """A line per list, with the first few names, and the checksum."""
        lists = {key: value for key, value in asdict(self).items() if key != "checksum"}
        lines = [f"{key:>10}  {len(names):4d}{_first(names)}" for key, names in lists.items()]
        return "\n".join([*lines, f"{'checksum':>10}  {self.checksum}"])


def checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """64 hex digits of SHA-256 over names, dtypes, shapes and bytes, in the order of the names.

    One tensor at a time, little-endian and C-contiguous: the same for the same values wherever they
    lie, and memory for one of them.

    Args:
        tensors: under the official names and in the official layout, constants left out.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = np.asarray(tensors[name])
        digest.update(json.dumps([name, tensor.dtype.name, list(tensor.shape)]).encode() + b"\n")
        digest.update(little_endian_bytes(tensor))
    return digest.hexdigest()


def little_endian_bytes(tensor: np.ndarray) -> bytes:
    """Of a tensor of any memory layout, as files have them."""
    return tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()


def _first(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"  {', '.join(names[:SHOWN])}{more}"
