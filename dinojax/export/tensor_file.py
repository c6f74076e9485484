"""A ``.safetensors`` file as a state dict: a header and bytes, no code that could run."""

import os
from collections.abc import Iterator, Mapping

import numpy as np
from safetensors import SafetensorError, safe_open

SUFFIX = ".safetensors"
FLOATS = ("F64", "F32", "F16", "BF16")


class TensorFile(Mapping[str, np.ndarray]):
    """Entries by name, each read from the file when it is asked for.

    Attributes:
        shapes: of all entries, from the header.
        metadata: what the header says beside them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole file of this kind.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"there is no file {self.path}")
        try:
            self._file = safe_open(self.path, framework="np")
            names = list(self._file.keys())
            self.shapes = {name: tuple(self._file.get_slice(name).get_shape()) for name in names}
            self.metadata: dict[str, str] = self._file.metadata() or {}
        except SafetensorError as error:
            raise ValueError(
                f"{self.path} is damaged or no {SUFFIX} file ({error}); download or convert it "
                "again"
            ) from error

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.shapes:
            raise KeyError(name)
        kind = self._file.get_slice(name).get_dtype()
        if kind not in FLOATS:
            raise ValueError(
                f"{name!r} in {self.path} is {kind}, not floating point; give the weights before "
                "they were quantised"
            )
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)
