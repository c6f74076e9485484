"""Writing a backbone as an ``.onnx`` file, and reading the weights of one back."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dinojax.export.audit import little_endian_bytes
from dinojax.export.loose import Outgoing, read_kept
from dinojax.export.onnx_convnext import build_convnext
from dinojax.export.onnx_graph import CONSTANT, Graph, import_onnx
from dinojax.export.onnx_vit import build_vit
from dinojax.export.safetensors_file import DTYPES
from dinojax.models.convnext import ConvNeXt
from dinojax.models.presets import Backbone
from dinojax.runtime.atomic import replace_bytes, replacing

OPSET, IR_VERSION = 20, 9
ONNX = ".onnx"
INPUT = "images"
BESIDE_BYTES = 1 << 30
"""Weights of more than this are in a file beside: a protocol buffer ends at 2 GiB."""
BESIDE = ".data"
"""Behind the name of that file."""


def write_onnx(
    path: Path,
    backbone: Backbone,
    state: Mapping[str, np.ndarray],
    channels: int,
    metadata: Mapping[str, str],
) -> None:
    """A backbone with any batch and image size, in float32.

    Args:
        state: under the official names; what no output depends on is kept in the metadata.

    Raises:
        ValueError: the package `onnx` is not installed.
    """
    onnx = import_onnx()
    build = build_convnext if isinstance(backbone, ConvNeXt) else build_vit
    graph = build(backbone, state)  # type: ignore[arg-type]
    unused = {name: value for name, value in state.items() if name not in graph.used}
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "backbone",
            [_value(INPUT, "batch", channels, "height", "width")],
            _outputs(backbone),
            _initializers(path, graph),
        ),
        ir_version=IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        producer_name="dinojax",
    )
    onnx.helper.set_model_props(model, {**metadata, **Outgoing({}, unused).header()})
    replace_bytes(path, model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path), full_check=True)


class OnnxFile(Mapping[str, np.ndarray]):
    """The weights of a file that `write_onnx` has written, under the official names.

    As `dinojax.export.tensor_file.TensorFile`; all of them are read at once.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or the package `onnx` is not installed.
    """

    def __init__(self, path: str):
        self.path, self.paths, onnx = path, (path,), import_onnx()
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {path}")
        try:
            model = onnx.load(path)
            self.metadata = {entry.key: entry.value for entry in model.metadata_props}
            self._arrays = {
                one.name: onnx.numpy_helper.to_array(one)
                for one in model.graph.initializer
                if not one.name.startswith(CONSTANT)
            }
        except Exception as error:  # of protobuf, onnx and numpy, which have none in common
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{path} is damaged or no ONNX file ({type(error).__name__}: {reason})"
            ) from error
        self._arrays = {**read_kept(self.metadata), **self._arrays}
        self.shapes = {name: value.shape for name, value in self._arrays.items()}
        self.dtypes = {name: DTYPES[value.dtype.name] for name, value in self._arrays.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def release(self) -> None:
        """Nothing is mapped."""


def _value(name: str, *shape: int | str) -> Any:
    onnx = import_onnx()
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def _outputs(backbone: Backbone) -> list[Any]:
    registers = 0 if isinstance(backbone, ConvNeXt) else backbone.n_storage_tokens
    return [
        _value("cls", "batch", backbone.embed_dim),
        _value("registers", "batch", registers, backbone.embed_dim),
        _value("patches", "batch", "rows", "columns", backbone.embed_dim),
    ]


def _initializers(path: Path, graph: Graph) -> list[Any]:
    onnx = import_onnx()
    made = {}
    for name, value in {**graph.constants, **graph.used}.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        made[name] = onnx.TensorProto(name=name, data_type=kind, dims=value.shape)
    beside = sum(value.nbytes for value in graph.used.values()) > BESIDE_BYTES
    inside = graph.constants if beside else {**graph.constants, **graph.used}
    for name, value in inside.items():
        made[name].raw_data = little_endian_bytes(value)
    if beside:
        _write_beside(path.with_name(path.name + BESIDE), graph.used, made)
    return list(made.values())


def _write_beside(
    path: Path, weights: Mapping[str, np.ndarray], tensors: Mapping[str, Any]
) -> None:
    onnx, start = import_onnx(), 0
    with replacing(path) as file:
        for name, value in weights.items():
            file.write(little_endian_bytes(value))
            tensors[name].data_location = onnx.TensorProto.EXTERNAL
            told = {"location": path.name, "offset": start, "length": value.nbytes}
            for key, said in told.items():
                tensors[name].external_data.add(key=key, value=str(said))
            start += value.nbytes
