"""An ONNX graph as it is written: operators in order, weights under their official names.

Opset 20 (the first with GELU) and IR version 9, which ONNX Runtime reads from 1.17 on. Weights stay
in the official layout; a runtime folds the transposes once, when it loads the file.
"""

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

CONSTANT = "constant/"
"""Before the names of initializers that are no weights."""
FLOAT, INT, BOOL = 1, 7, 9
"""`onnx.TensorProto` of float32, int64 and bool."""
TO_END = np.iinfo(np.int64).max
"""Of a slice that goes to the end."""


def import_onnx() -> ModuleType:
    """The package `onnx`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("onnx")
    except ModuleNotFoundError as error:
        raise ValueError("ONNX files need the package onnx: pip install 'dinojax[onnx]'") from error


class Graph:
    """Nodes and initializers under construction. Values are called by their names.

    Args:
        weights: by the names that `weight` asks for.

    Attributes:
        nodes: in order.
        used: the weights that were asked for.
        constants: other initializers by name.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]):
        self._helper = import_onnx().helper
        self._weights = weights
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.nodes: list[Any] = []
        self.used: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The output of a new node."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """The outputs of a new node that has several."""
        stem = f"{kind.lower()}_{len(self.nodes)}"
        outputs = [stem if count == 1 else f"{stem}_{index}" for index in range(count)]
        self.nodes.append(self._helper.make_node(kind, inputs, outputs, name=stem, **attributes))
        return outputs

    def rename(self, value: str, output: str) -> None:
        """Make a value an output of the model."""
        self.nodes.append(self._helper.make_node("Identity", [value], [output], name=output))

    def has(self, name: str) -> bool:
        """Whether the model has this weight."""
        return name in self._weights

    def weight(self, name: str) -> str:
        """An initializer by its official name."""
        self.used[name] = self._weights[name]
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a weight."""
        return self._weights[name].shape

    def floats(self, value: float | Sequence[float] | np.ndarray) -> str:
        """A float32 constant."""
        return self._constant(np.asarray(value, np.float32))

    def ints(self, *values: int) -> str:
        """A vector of integers, as shapes and axes are."""
        return self._constant(np.asarray(values, np.int64))

    def _constant(self, value: np.ndarray) -> str:
        key = (value.dtype.name, value.shape, value.tobytes())
        name = self._names.setdefault(key, f"{CONSTANT}{len(self._names)}")
        self.constants[name] = value
        return name

    def sides(self, x: str, first: int, last: int) -> list[str]:
        """Sizes of the axes from `first` to before `last`, each a vector of one integer."""
        found = self.op("Shape", x, start=first, end=last)
        count = last - first
        return [found] if count == 1 else self.ops("Split", count, found, axis=0, num_outputs=count)

    def shaped(self, x: str, *sides: str) -> str:
        """Reshaped to vectors of integers side by side."""
        return self.op("Reshape", x, self.op("Concat", *sides, axis=0))

    def cut(self, x: str, start: int, end: int, axis: int) -> str:
        """The part from `start` to before `end` of one axis."""
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis))

    def linear(self, x: str, stem: str, bias: str | None = None) -> str:
        """``x W^T + b`` over the last axis, of the weights ``stem.weight`` and ``stem.bias``."""
        y = self.op("MatMul", x, self.op("Transpose", self.weight(f"{stem}.weight"), perm=[1, 0]))
        if bias is None and self.has(f"{stem}.bias"):
            bias = self.weight(f"{stem}.bias")
        return y if bias is None else self.op("Add", y, bias)

    def conv(self, x: str, stem: str, stride: int = 1, pad: int = 0, group: int = 1) -> str:
        """A convolution of NCHW maps with the weights of `stem`."""
        side = self.shape(f"{stem}.weight")[-1]
        inputs = [x, self.weight(f"{stem}.weight"), self.weight(f"{stem}.bias")]
        shape = {"kernel_shape": [side] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        return self.op("Conv", *inputs, group=group, **shape)

    def layer_norm(self, x: str, stem: str, epsilon: float) -> str:
        """Over the last axis."""
        scale, bias = self.weight(f"{stem}.weight"), self.weight(f"{stem}.bias")
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def rms_norm(self, x: str, stem: str, epsilon: float) -> str:
        """Over the last axis, without bias."""
        square = self.op("ReduceMean", self.op("Mul", x, x), self.ints(-1))
        root = self.op("Sqrt", self.op("Add", square, self.floats(epsilon)))
        return self.op("Mul", self.op("Div", x, root), self.weight(f"{stem}.weight"))
