"""DINOv2's position table resampled inside an ONNX graph, for whatever size an image has.

`dinojax.kernels.resize` in the graph's own operators, as two products with matrices of weights: the
`Resize` of runtimes differs from PyTorch's where it antialiases.
"""

import numpy as np

from dinojax.export.onnx_graph import BOOL, FLOAT, INT, TO_END, Graph
from dinojax.models.vit import VisionTransformer

REACH = 2
"""Pixels on either side that the cubic reads."""


def resampled_positions(
    g: Graph, vit: VisionTransformer, table: str, rows: str, columns: str
) -> str:
    """``[1, N, D]``: what `dinojax.models.embed.resample_positions` gives the patches.

    Args:
        table: the weight ``[1, 1 + side^2, D]``.
        rows, columns: of patches, vectors of one integer.
    """
    side, width = vit.pos_embed_grid, g.shape(table)[-1]
    assert side is not None
    offset = _offset(g, vit, rows, columns)
    down, across = (_weights(g, vit, count, side, offset) for count in (rows, columns))
    old = g.op("Reshape", g.cut(table, 1, TO_END, axis=1), g.ints(side, side * width))
    tall = g.shaped(g.op("MatMul", down, old), rows, g.ints(side, width))
    new = g.op("MatMul", across, tall)  # [rows, columns, D]
    return g.op("Reshape", new, g.ints(1, -1, width))


def _offset(g: Graph, vit: VisionTransformer, rows: str, columns: str) -> str:
    """What is added to the new sides; a table of the same shape stays as it is."""
    assert vit.pos_embed_grid is not None
    same = g.op("Equal", g.op("Concat", rows, columns, axis=0), g.ints(vit.pos_embed_grid))
    both = g.op("ReduceMin", g.op("Cast", same, to=INT))
    return g.op(
        "Where", g.op("Cast", both, to=BOOL), g.floats(0.0), g.floats(float(vit.interpolate_offset))
    )


def _weights(g: Graph, vit: VisionTransformer, count: str, side: int, offset: str) -> str:
    """``[count, side]``: how much of each old position is in each new one."""
    antialias = vit.interpolate_antialias
    new = g.op("Cast", count, to=FLOAT)
    scale = g.op("Div", g.floats(float(side)), g.op("Add", new, offset))
    steps = g.op("Range", g.floats(0.0), g.op("Squeeze", new), g.floats(1.0))
    centres = g.op("Unsqueeze", g.op("Mul", g.op("Add", steps, g.floats(0.5)), scale), g.ints(1))
    beyond = 0 if antialias else REACH + 1
    pixels = np.arange(-beyond, side + beyond)
    distance = g.op("Abs", g.op("Sub", g.floats(pixels + 0.5), centres))
    if antialias:
        distance = g.op("Div", distance, g.op("Max", scale, g.floats(1.0)))
    weights = _cubic(g, distance, -0.5 if antialias else -0.75)
    if antialias:  # what is beyond the border does not count
        return g.op("Div", weights, g.op("ReduceSum", weights, g.ints(1)))
    inside = np.clip(pixels, 0, side - 1)[:, None] == np.arange(side)  # and here is the border
    return g.op("MatMul", weights, g.floats(inside))


def _cubic(g: Graph, x: str, a: float) -> str:
    """Keys' kernel of distances."""

    def polynomial(*coefficients: float) -> str:
        value = g.floats(coefficients[0])
        for coefficient in coefficients[1:]:
            value = g.op("Add", g.op("Mul", value, x), g.floats(coefficient))
        return value

    near = polynomial(a + 2, -(a + 3), 0.0, 1.0)
    far = polynomial(a, -5 * a, 8 * a, -4 * a)
    outer = g.op("Where", g.op("Less", x, g.floats(2.0)), far, g.floats(0.0))
    return g.op("Where", g.op("Less", x, g.floats(1.0)), near, outer)
