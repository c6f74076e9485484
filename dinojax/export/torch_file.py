"""A ``.pth`` file as a state dict: read by PyTorch's own reader of tensors, which runs no code.

Such a file is a pickle. ``torch.load(weights_only=True)`` builds tensors and plain containers from
it and refuses all else, so that a malicious one ends in an error.
"""

import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

SUFFIXES = (".pth", ".pt", ".bin")
_FLOATS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_WRAPPERS = ("teacher", "model", "state_dict")
"""Keys under which training code saves a state dict; the first of them that is there counts."""
Shape = tuple[int, ...]


class TorchFile(Mapping[str, np.ndarray]):
    """Entries by name, as `dinojax.export.tensor_file.TensorFile` has them; without metadata.

    Raises:
        FileNotFoundError: no such file.
        ValueError: PyTorch is not installed, or the file is damaged, holds code or no tensors.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"there is no file {self.path}")
        self.paths, self.metadata = (self.path,), dict[str, str]()
        self._tensors = self._load()
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        self.dtypes = {
            name: _FLOATS.get(kind := str(tensor.dtype).removeprefix("torch."), kind)
            for name, tensor in self._tensors.items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name].detach()
        if self.dtypes[name] not in _FLOATS.values():
            raise ValueError(
                f"{name!r} in {self.path} is {self.dtypes[name]}, not floating point; give the "
                "weights before they were quantised"
            )
        if self.dtypes[name] == "BF16":  # which numpy does not know
            torch = importlib.import_module("torch")
            return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def release(self) -> None:
        """The file is mapped by PyTorch, which decides."""

    def _load(self) -> Mapping[str, Any]:
        try:
            torch = importlib.import_module("torch")
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{self.path} is a file of PyTorch, which is not installed; pip install torch, or "
                "convert it elsewhere with safetensors.torch.save_file(torch.load(FILE, "
                "weights_only=True), NEW)"
            ) from error
        try:
            found = _mapped(torch, self.path)
        except Exception as error:  # pickle, zip and PyTorch have no error in common
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{self.path} is damaged or holds more than tensors ({type(error).__name__}: "
                f"{reason}); nothing in it has been run. Use a file of the weights alone"
            ) from error
        if isinstance(found, dict):
            found = next((found[key] for key in _WRAPPERS if key in found), found)
        if not isinstance(found, dict) or not found:
            raise ValueError(f"{self.path} holds no state dict; use a file of the weights alone")
        for name, tensor in found.items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                raise ValueError(
                    f"{self.path}: {name!r} is {type(tensor).__name__}, not a tensor; use a file "
                    "of the weights alone"
                )
            if tensor.layout != torch.strided or tensor.device.type != "cpu":
                raise ValueError(f"{self.path}: {name!r} is no dense tensor; convert the file")
        return found


def _mapped(torch: Any, path: str) -> Any:
    """What `path` holds; mapped into memory, unless it is of the format before PyTorch 1.6."""
    options = {"map_location": "cpu", "weights_only": True}
    try:
        return torch.load(path, mmap=True, **options)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(path, **options)
