"""What a ConvNeXt keeps for its backward pass and works on."""

from collections.abc import Iterator, Sequence

from dinojax.models.convnext import STRIDES, ConvNeXt

MAPS_KEPT = {"full": 1, "dots": 1 + 4 + 1, "none": 1 + 1 + 1 + 4 + 4 + 1}
"""Of a block, in units of its input: that, the products' outputs, and what lies between them."""
HIDDEN_BYTES = 4 * 10
"""Of a block's backward pass, per number of its input: the fourfold hidden width, as for a ViT."""


def kept_for_backward(backbone: ConvNeXt, streams: Sequence[tuple[int, int]], item: int) -> int:
    """Bytes on one device; `streams` are (crops, their side in px), `item` bytes of a number."""
    kept = MAPS_KEPT[backbone.remat]
    return sum(
        depth * kept * numbers * item
        for crops, side in streams
        for depth, numbers in _stages(backbone, crops, side)
    )


def layer_workspace(backbone: ConvNeXt, streams: Sequence[tuple[int, int]]) -> int:
    """Bytes of the largest block's backward pass."""
    return max(
        numbers * HIDDEN_BYTES
        for crops, side in streams
        for _, numbers in _stages(backbone, crops, side)
    )


def _stages(backbone: ConvNeXt, crops: int, side: int) -> Iterator[tuple[int, int]]:
    """(blocks, numbers in a map of all crops)."""
    for depth, width, stride in zip(backbone.depths, backbone.dims, STRIDES, strict=True):
        side //= stride
        yield depth, crops * side**2 * width
