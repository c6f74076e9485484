"""Weights as other code has written them, all under the official names: one way to every layout.

==============  ===================================================================================
``official``    names of the DINOv2 or DINOv3 repositories, also with chunks or as training saves
``huggingface``  of `transformers`, version 4 or 5; a folder, in one file or several
``timm``        of `timm`
``dinojax``     of ``dinojax.export_torch --format=safetensors``: our own paths
==============  ===================================================================================
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from dinojax.export.hf_names import HfWeights, is_hf
from dinojax.export.official_weights import OfficialWeights
from dinojax.export.onnx_file import ONNX, OnnxFile
from dinojax.export.own_weights import OwnWeights, is_own
from dinojax.export.packed import File, Shape
from dinojax.export.sharded_file import INDEX, ShardedFile
from dinojax.export.tensor_file import FLOATS, TensorFile
from dinojax.export.timm_names import TimmWeights, is_timm
from dinojax.export.torch_file import SUFFIXES as PICKLES
from dinojax.export.torch_file import TorchFile

FOLDER_FILE = "model.safetensors"
"""In a folder that `transformers` has saved; `sharded_file.INDEX` of a large model."""
HF, TIMM = "huggingface", "timm"
_QKV_BIAS = r"blocks\.\d+\.attn\.qkv\.bias"


@runtime_checkable
class WeightFile(File, Protocol):
    """One or more files: `TensorFile`, `ShardedFile`, `TorchFile` or `OnnxFile`."""

    path: str
    paths: tuple[str, ...]
    dtypes: dict[str, str]
    metadata: dict[str, str]

    def release(self) -> None: ...


@dataclass(frozen=True)
class Weights(Mapping[str, np.ndarray]):
    """The entries of a file under the official names, each read when it is asked for.

    Attributes:
        file: what they are in: has `path`, `metadata` and `dtypes` by the file's own names.
        layout: one of the module's table.
        zeros: pattern of the entries that this layout leaves out because they are zero.
    """

    file: WeightFile
    layout: str
    entries: OfficialWeights | HfWeights | TimmWeights | OwnWeights
    zeros: str | None = None

    @property
    def shapes(self) -> dict[str, Shape]:
        return self.entries.shapes

    @property
    def where(self) -> str:
        """For messages."""
        return self.file.path

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self.entries[name]
        except ValueError as error:
            raise ValueError(f"{self.where}: {name!r}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def dtype(self, name: str) -> str:
        """Of what makes up an entry, in the words of the file format."""
        found = {self.file.dtypes[one] for one in self.entries.names(name)}
        if not found:  # of the header
            kind = self.entries[name].dtype
            found = {word for word, dtype in FLOATS.items() if dtype == kind}
        return " and ".join(sorted(found))


def open_weights(path: str, *, allow_pth: bool = False) -> Weights:
    """A file's entries, whatever its layout.

    Args:
        path: a file, or a folder with `FOLDER_FILE` or `INDEX`.
        allow_pth: files of PyTorch, too, which its own reader of tensors opens.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole file of this kind, or entries that contradict one another.
    """
    file = _open(path, allow_pth)
    try:
        if is_own(file.shapes):
            return Weights(file, "dinojax", OwnWeights(file))
        if is_hf(file.shapes):
            return Weights(file, HF, HfWeights(file))
        if is_timm(file.shapes):
            timm = TimmWeights(file)
            some = any(re.fullmatch(_QKV_BIAS, name) for name in timm)
            return Weights(file, TIMM, timm, None if some else _QKV_BIAS)
        return Weights(file, "official", OfficialWeights(file))
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from error


def is_weights(path: str) -> bool:
    """Whether a path names a file of weights or a Hugging Face folder, not a run."""
    names = (FOLDER_FILE, INDEX)
    return path.endswith((".safetensors", ONNX, INDEX, *PICKLES)) or any(
        os.path.isfile(os.path.join(path, name)) for name in names
    )


def _open(path: str, allow_pth: bool) -> WeightFile:
    if path.endswith(PICKLES):
        if not allow_pth:
            raise ValueError(
                f"{path}: a file of PyTorch is a program that builds tensors. Once you trust where "
                f"it is from, python -m dinojax.import_torch {path} --allow_pth --out=DIR has it "
                "read by torch.load(weights_only=True), which runs none of it; then use "
                "DIR/snapshots/0 instead"
            )
        return TorchFile(path)
    if path.endswith(ONNX):
        return OnnxFile(path)
    if os.path.isdir(path):
        whole, index = os.path.join(path, FOLDER_FILE), os.path.join(path, INDEX)
        if os.path.isfile(index) and not os.path.isfile(whole):
            return ShardedFile(index)
        return TensorFile(whole)
    return ShardedFile(path) if path.endswith(INDEX) else TensorFile(path)
