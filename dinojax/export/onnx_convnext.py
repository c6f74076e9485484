"""A ConvNeXt as an ONNX graph: what `dinojax.models.convnext` computes for whole images."""

from collections.abc import Mapping

import numpy as np

from dinojax.export.onnx_graph import Graph
from dinojax.models.convnext import STRIDES, ConvNeXt

EPSILON = 1e-6


def build_convnext(convnext: ConvNeXt, state: Mapping[str, np.ndarray]) -> Graph:
    """As `onnx_vit.build_vit`; there are no registers, and CLS is the mean of the map."""
    g, x = Graph(state), "images"
    for stage, depth in enumerate(convnext.depths):
        stem = f"downsample_layers.{stage}."
        if stage == 0:
            x = g.conv(x, f"{stem}0", stride=STRIDES[stage])
            x = _channels_first(g, g.layer_norm(_channels_last(g, x), f"{stem}1", EPSILON))
        else:
            x = _channels_first(g, g.layer_norm(_channels_last(g, x), f"{stem}0", EPSILON))
            x = g.conv(x, f"{stem}1", stride=STRIDES[stage])
        for layer in range(depth):
            x = _block(g, x, f"stages.{stage}.{layer}.", convnext.dims[stage])
    maps = _channels_last(g, x)
    pooled = g.op("ReduceMean", maps, g.ints(1, 2), keepdims=0)
    g.rename(g.layer_norm(pooled, "norm", EPSILON), "cls")
    g.rename(g.cut(g.op("Unsqueeze", pooled, g.ints(1)), 0, 0, axis=1), "registers")
    g.rename(g.layer_norm(maps, "norm", EPSILON), "patches")
    return g


def _channels_last(g: Graph, x: str) -> str:
    return g.op("Transpose", x, perm=[0, 2, 3, 1])


def _channels_first(g: Graph, x: str) -> str:
    return g.op("Transpose", x, perm=[0, 3, 1, 2])


def _block(g: Graph, x: str, stem: str, width: int) -> str:
    y = _channels_last(g, g.conv(x, f"{stem}dwconv", pad=3, group=width))
    y = g.linear(g.layer_norm(y, f"{stem}norm", EPSILON), f"{stem}pwconv1")
    y = g.linear(g.op("Gelu", y), f"{stem}pwconv2")
    if g.has(f"{stem}gamma"):
        y = g.op("Mul", y, g.weight(f"{stem}gamma"))
    return g.op("Add", x, _channels_first(g, y))
