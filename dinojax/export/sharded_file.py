"""A model in several ``.safetensors`` files with an index, as Hugging Face folders have it."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from dinojax.export.tensor_file import TensorFile

INDEX = "model.safetensors.index.json"
WEIGHT_MAP = "weight_map"


class ShardedFile(Mapping[str, np.ndarray]):
    """Entries by name, each a view of the file that the index names.

    Raises:
        FileNotFoundError: no such index, or a file that it names is not there.
        ValueError: either is damaged, or they do not agree.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self._names = self._read_index()
        folder = Path(self.path).parent
        self._files = {name: TensorFile(folder / name) for name in sorted({*self._names.values()})}
        self.paths = tuple(str(folder / name) for name in self._files)
        for name, file in self._names.items():
            if name not in self._files[file]:
                raise ValueError(f"{folder / file} has no {name!r}, which {self.path} says it has")
        for file, tensors in self._files.items():
            more = sorted(name for name in tensors if self._names.get(name) != file)
            if more:
                raise ValueError(f"{folder / file} has {more[0]!r}, which {self.path} does not say")
        self.shapes = {name: self._files[file].shapes[name] for name, file in self._names.items()}
        self.dtypes = {name: self._files[file].dtypes[name] for name, file in self._names.items()}
        self.metadata = next((one.metadata for one in self._files.values()), {})

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[self._names[name]][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def release(self) -> None:
        """As `TensorFile.release`."""
        for file in self._files.values():
            file.release()

    def _read_index(self) -> dict[str, str]:
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"there is no file {self.path}")
        try:
            found = json.loads(Path(self.path).read_text(encoding="utf-8"))[WEIGHT_MAP]
            names = {str(name): str(file) for name, file in found.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{self.path} is damaged ({type(error).__name__}: {error}); download it again"
            ) from error
        for file in names.values():
            if Path(file).name != file:
                raise ValueError(f"{self.path} names {file!r}, which is not in its folder")
        return names
