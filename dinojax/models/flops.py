"""Matmul FLOPs of the models, counted from their sizes: a multiply and an add are two.

Norms, activations, softmax, RoPE and biases are left out, as is usual for model FLOPs utilisation
(arXiv:2204.02311, appendix B); they are a few percent of real widths.
"""

from itertools import pairwise

from dinojax.models.convnext import STRIDES, ConvNeXt
from dinojax.models.convnext_block import KERNEL
from dinojax.models.embed import patch_grid
from dinojax.models.ffn import hidden_width
from dinojax.models.head import DinoHead
from dinojax.models.presets import Backbone
from dinojax.models.projection import Projection


def layer_flops(width: int, hidden: int, gated: bool, tokens: int) -> int:
    """One transformer layer on one sequence: q, k, v and output projections, attention, FFN."""
    projections = 2 * tokens * width * 4 * width
    attention = 2 * 2 * tokens**2 * width
    ffn = 2 * tokens * width * hidden * (3 if gated else 2)
    return projections + attention + ffn


def backbone_flops(
    backbone: Backbone, image_px: int, *, channels: int = 3, drop_path_rate: float = 0.0
) -> float:
    """Forward pass of one square image.

    With stochastic depth only ``1 - drop_path_rate`` of the images run each residual branch of a
    ViT; the rounding of that count in small groups is left out. A ConvNeXt runs all of them.
    """
    if isinstance(backbone, ConvNeXt):
        return float(convnext_flops(backbone, image_px, channels=channels))
    rows, columns = patch_grid(image_px, image_px, backbone.patch_size)
    patches = rows * columns
    embed = 2 * patches * backbone.patch_size**2 * channels * backbone.embed_dim
    layer = layer_flops(
        backbone.embed_dim,
        hidden_width(backbone.embed_dim, backbone.ffn_ratio, backbone.ffn_layer),
        backbone.ffn_layer != "mlp",
        1 + backbone.n_storage_tokens + patches,
    )
    return embed + (1 - drop_path_rate) * backbone.depth * layer


def convnext_flops(backbone: ConvNeXt, image_px: int, *, channels: int = 3) -> int:
    """Forward pass of one square image: the convolutions between stages and those of each layer."""
    total, side, width = 0, image_px, channels
    for dim, depth, stride in zip(backbone.dims, backbone.depths, STRIDES, strict=True):
        side //= stride
        downsample = 2 * stride**2 * width * dim
        layer = 2 * KERNEL**2 * dim + 2 * 2 * dim * 4 * dim
        total += side**2 * (downsample + depth * layer)
        width = dim
    return total


def projection_flops(projection: Projection, width: int) -> int:
    """Forward pass of one token of `width`."""
    hidden = () if projection.hidden_dim is None else (projection.hidden_dim,)
    return sum(2 * a * b for a, b in pairwise((width, *hidden, projection.width)))


def head_flops(head: DinoHead, width: int) -> int:
    """Forward pass of one token of `width`, from the MLP to the prototype logits."""
    sizes = [width, *[head.hidden_dim] * (head.layers - 1), head.bottleneck_dim, head.prototypes]
    return sum(2 * inputs * outputs for inputs, outputs in pairwise(sizes))
