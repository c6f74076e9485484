"""A ``.safetensors`` file as a state dict: a header and bytes, no code that could run.

The header is read here, not by the package of that name: what is refused is refused with the
tensor's name, and entries are views of the mapped file, so that a device's part of a tensor is all
that is ever copied. Format: https://github.com/huggingface/safetensors#format
"""

import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

SUFFIX = ".safetensors"
FLOATS: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""What weights are; the file itself may hold more."""
ITEM_BYTES = {
    **{name: dtype.itemsize for name, dtype in FLOATS.items()},
    **dict.fromkeys(("I64", "U64"), 8),
    **dict.fromkeys(("I32", "U32"), 4),
    **dict.fromkeys(("I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
MAX_HEADER = 100_000_000
"""Bytes; the format's own limit."""
METADATA = "__metadata__"
Shape = tuple[int, ...]


class Span(NamedTuple):
    """Where a tensor lies in its file, and what it is."""

    dtype: str
    shape: Shape
    start: int
    end: int


class TensorFile(Mapping[str, np.ndarray]):
    """Entries by name, each a read-only view of the file.

    Attributes:
        shapes: of all entries, from the header.
        dtypes: of all entries, in the words of the format: ``F32``, ``BF16``, ``I8``.
        metadata: what the header says beside them.
        paths: of all files that the entries are in.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole file of this kind, or a header that cannot be true of it.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"there is no file {self.path}")
        with open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                raise self._damaged(
                    f"its header should have {length} bytes and the file has {size}"
                )
            self._spans, self.metadata = self._parse(file.read(length), size - 8 - length)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._start = 8 + length
        self.paths = (self.path,)
        self.shapes = {name: span.shape for name, span in self._spans.items()}
        self.dtypes = {name: span.dtype for name, span in self._spans.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        span = self._spans[name]
        if span.dtype not in FLOATS:
            raise ValueError(
                f"{name!r} in {self.path} is {span.dtype}, not floating point; give the weights "
                "before they were quantised"
            )
        count = math.prod(span.shape)
        dtype, offset = FLOATS[span.dtype], self._start + span.start
        return np.frombuffer(self._map, dtype, count, offset if count else 0).reshape(span.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def release(self) -> None:
        """Give back the memory of what has been read; it is read again when it is asked for."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def _damaged(self, how: str) -> ValueError:
        return ValueError(
            f"{self.path} is damaged or no {SUFFIX} file: {how}; download or convert it again"
        )

    def _parse(self, header: bytes, size: int) -> tuple[dict[str, Span], dict[str, str]]:
        twice: list[str] = []

        def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for name, value in pairs:
                twice.extend([name] if name in found else [])
                found[name] = value
            return found

        try:
            found = json.loads(header.decode(), object_pairs_hook=once)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its header is no JSON ({error})") from error
        if twice:
            raise self._damaged(f"its header has {twice[0]!r} twice")
        if not isinstance(found, dict):
            raise self._damaged("its header is no table of tensors")
        metadata = found.pop(METADATA, {})
        if not _is_text(metadata):
            raise self._damaged(f"{METADATA} is no table of texts")
        spans = {name: self._span(name, entry) for name, entry in found.items()}
        end = 0
        for name, span in sorted(spans.items(), key=lambda item: item[1][2:]):
            if span.start != end:
                raise self._damaged(
                    f"tensor {name!r} should begin at byte {end} of the data, not {span.start}"
                )
            end = span.end
        if end != size:
            raise self._damaged(f"its tensors have {end} bytes and the file has {size} for them")
        return spans, metadata

    def _span(self, name: str, entry: Any) -> Span:
        try:
            kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            bytes_ = ITEM_BYTES[kind] * math.prod(shape)
            numbers = (*shape, start, end)
            odd = len(entry) != 3 or any(type(n) is not int or n < 0 for n in numbers)
            odd |= not isinstance(shape, list)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(f"tensor {name!r} is described by {entry!r:.200}") from error
        if odd:
            raise self._damaged(f"tensor {name!r} is described by {entry!r:.200}")
        if end - start != bytes_:
            raise self._damaged(
                f"tensor {name!r} of {kind}{shape} has {bytes_} bytes, and {end - start} are "
                "marked as its"
            )
        return Span(kind, tuple(shape), start, end)


def _is_text(table: Any) -> bool:
    return isinstance(table, dict) and all(isinstance(value, str) for value in table.values())
