"""A vision transformer as an ONNX graph: what `dinojax.models.vit` computes for whole images."""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from dinojax.export.buffers import rope_buffer
from dinojax.export.onnx_graph import FLOAT, TO_END, Graph
from dinojax.export.onnx_positions import resampled_positions
from dinojax.models.norm import NORM_LAYERS
from dinojax.models.vit import VisionTransformer

OUTPUTS = ("cls", "registers", "patches")


def build_vit(vit: VisionTransformer, state: Mapping[str, np.ndarray]) -> Graph:
    """From ``images [batch, C, height, width]``, float32 and normalised, to `OUTPUTS`.

    After the final norm ``[batch, D]``, ``[batch, R, D]`` and ``[batch, rows, columns, D]``. A
    remainder of the image that fills no patch is not used.

    Args:
        state: under the official names of DINOv3 or DINOv2.
    """
    g = Graph(state)
    prefix = 1 + vit.n_storage_tokens
    maps = g.conv("images", "patch_embed.proj", stride=vit.patch_size)
    batch, width, rows, columns = g.sides(maps, 0, 4)
    patches = g.op("Transpose", g.shaped(maps, batch, width, g.ints(-1)), perm=[0, 2, 1])
    tokens = [g.weight("cls_token")]
    if vit.pos_embed_grid is not None:
        table = g.weight("pos_embed")
        tokens = [g.op("Add", *tokens, g.cut(table, 0, 1, axis=1))]
        patches = g.op("Add", patches, resampled_positions(g, vit, table, rows, columns))
    if vit.n_storage_tokens:
        registers = "storage_tokens" if g.has("storage_tokens") else "register_tokens"
        tokens.append(g.weight(registers))
    each = g.op("Concat", batch, g.ints(1, 1), axis=0)
    x = g.op("Concat", *(g.op("Expand", one, each) for one in tokens), patches, axis=1)
    tables = None if vit.pos_embed_grid is not None else _rope(g, vit, rows, columns, prefix)
    for layer in range(vit.depth):
        x = _block(g, vit, x, f"blocks.{layer}.", tables)
    head, rest = _final_norms(g, vit, x, prefix)
    g.rename(g.op("Squeeze", g.cut(head, 0, 1, axis=1), g.ints(1)), "cls")
    g.rename(g.cut(head, 1, prefix, axis=1), "registers")
    g.rename(g.shaped(rest, batch, rows, columns, width), "patches")
    return g


def _norm(g: Graph, vit: VisionTransformer, x: str, stem: str) -> str:
    make = NORM_LAYERS[vit.norm_layer]
    assert isinstance(make, partial)
    kind = g.rms_norm if vit.norm_layer == "rmsnorm" else g.layer_norm
    return kind(x, stem, make.keywords["epsilon"])


def _final_norms(g: Graph, vit: VisionTransformer, x: str, prefix: int) -> tuple[str, str]:
    """Of CLS and registers, which may have a norm of their own, and of patches."""
    normed = _norm(g, vit, x, "norm")
    untied = _norm(g, vit, x, "cls_norm") if vit.untie_cls_and_patch_norms else normed
    return g.cut(untied, 0, prefix, axis=1), g.cut(normed, prefix, TO_END, axis=1)


def _rope(
    g: Graph, vit: VisionTransformer, rows: str, columns: str, prefix: int
) -> tuple[str, str]:
    """Sine and cosine ``[1, 1, N, d]`` (`dinojax.kernels.rope.rope_tables`)."""
    mode = vit.pos_embed_rope_normalize_coords
    extents = [rows, columns]
    if mode != "separate":
        extents = [g.op("Max" if mode == "max" else "Min", rows, columns)] * 2
    axes = []
    for count, extent in zip((rows, columns), extents, strict=True):
        steps = g.op("Range", g.floats(0.0), _scalar(g, count), g.floats(1.0))
        centres = g.op("Div", g.op("Add", steps, g.floats(0.5)), _scalar(g, extent))
        axes.append(g.op("Sub", g.op("Mul", centres, g.floats(2.0)), g.floats(1.0)))
    grid = g.op("Concat", rows, columns, g.ints(1), axis=0)
    y = g.op("Expand", g.op("Unsqueeze", axes[0], g.ints(1, 2)), grid)
    x = g.op("Expand", g.op("Unsqueeze", axes[1], g.ints(0, 2)), grid)
    both = g.op("Reshape", g.op("Concat", y, x, axis=2), g.ints(-1, 2, 1))
    turned = g.op("Mul", both, g.floats(2 * math.pi))
    angles = g.op("Div", turned, g.floats(rope_buffer(vit).astype(np.float64)))
    angles = g.op("Reshape", angles, g.ints(0, -1))
    angles = g.op("Concat", angles, angles, axis=1)
    angles = g.op("Pad", angles, g.ints(prefix, 0, 0, 0))  # angle 0: sin 0, cos 1
    angles = g.op("Unsqueeze", angles, g.ints(0, 1))
    return g.op("Sin", angles), g.op("Cos", angles)


def _scalar(g: Graph, count: str) -> str:
    return g.op("Cast", g.op("Squeeze", count), to=FLOAT)


def _block(
    g: Graph, vit: VisionTransformer, x: str, stem: str, tables: tuple[str, str] | None
) -> str:
    attended = _attention(g, vit, _norm(g, vit, x, f"{stem}norm1"), f"{stem}attn.", tables)
    x = g.op("Add", x, _scaled(g, attended, f"{stem}ls1.gamma"))
    fed = _ffn(g, _norm(g, vit, x, f"{stem}norm2"), f"{stem}mlp.")
    return g.op("Add", x, _scaled(g, fed, f"{stem}ls2.gamma"))


def _scaled(g: Graph, x: str, gamma: str) -> str:
    return g.op("Mul", x, g.weight(gamma)) if g.has(gamma) else x


def _attention(
    g: Graph, vit: VisionTransformer, x: str, stem: str, tables: tuple[str, str] | None
) -> str:
    heads, width = vit.num_heads, vit.embed_dim // vit.num_heads
    bias = None
    if vit.qkv_bias and vit.mask_k_bias:
        mask = g.floats(np.repeat([1.0, 0.0, 1.0], vit.embed_dim))
        bias = g.op("Mul", g.weight(f"{stem}qkv.bias"), mask)
    qkv = g.op("Reshape", g.linear(x, f"{stem}qkv", bias), g.ints(0, 0, 3, heads, width))
    qkv = g.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])
    parts = g.ops("Split", 3, qkv, axis=0, num_outputs=3)
    q, k, v = (g.op("Squeeze", part, g.ints(0)) for part in parts)
    if tables is not None:
        q, k = _turned(g, q, tables), _turned(g, k, tables)
    q = g.op("Mul", q, g.floats(width**-0.5))
    weights = g.op("Softmax", g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    mixed = g.op("Transpose", g.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    return g.linear(g.op("Reshape", mixed, g.ints(0, 0, vit.embed_dim)), f"{stem}proj")


def _turned(g: Graph, x: str, tables: tuple[str, str]) -> str:
    """`dinojax.kernels.rope.apply_rope`."""
    first, second = g.ops("Split", 2, x, axis=-1, num_outputs=2)
    turned = g.op("Concat", g.op("Neg", second), first, axis=-1)
    sin, cos = tables
    return g.op("Add", g.op("Mul", x, cos), g.op("Mul", turned, sin))


def _ffn(g: Graph, x: str, stem: str) -> str:
    if g.has(f"{stem}fc1.weight"):
        return g.linear(g.op("Gelu", g.linear(x, f"{stem}fc1")), f"{stem}fc2")
    if g.has(f"{stem}w12.weight"):
        gate, value = g.ops("Split", 2, g.linear(x, f"{stem}w12"), axis=-1, num_outputs=2)
    else:
        gate, value = g.linear(x, f"{stem}w1"), g.linear(x, f"{stem}w2")
    opened = g.op("Mul", gate, g.op("Sigmoid", gate))
    return g.linear(g.op("Mul", opened, value), f"{stem}w3")
