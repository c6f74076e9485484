"""Bytes per device that a step makes on its way: views, what layers keep and work on, logits.

Counted as the algorithm needs it and as the TPU compiler is seen to lay it out (docs/plan.md).
"""

import numpy as np

from dinojax.build.inputs import build_views, draw_group_size
from dinojax.build.model import build_model
from dinojax.config import Config
from dinojax.kernels import attention_tpu
from dinojax.kernels.attention_reference import query_blocks
from dinojax.models.convnext import ConvNeXt
from dinojax.models.ffn import hidden_width
from dinojax.models.vit import VisionTransformer
from dinojax.planning import convnext_memory
from dinojax.planning.streams import (
    SUBLANES,
    MeshShape,
    crop_streams,
    images_per_device,
    padded,
    teacher_streams,
    token_streams,
)
from dinojax.precision import get_precision
from dinojax.ssl.prepare import GLOBAL_VIEWS
from dinojax.views.recipe import ViewRecipe


def crop_bytes(config: Config, shape: MeshShape, *, gram: bool = True) -> int:
    """The crops of a micro-batch; without `gram` those of the student alone."""
    views: ViewRecipe = build_views(config)
    pixels = GLOBAL_VIEWS * padded(views.global_crops_size) * views.global_crops_size
    if gram and config.gram.use_loss and views.gram_teacher_crops_size is not None:
        side = views.gram_teacher_crops_size
        pixels += GLOBAL_VIEWS * padded(side) * side
    pixels += views.local_crops_number * padded(views.local_crops_size) * views.local_crops_size
    item = np.dtype(get_precision(config.train.precision).param).itemsize
    images = images_per_device(config, shape, micro_batch=True)
    return images * pixels * config.student.in_chans * item


def view_workspace(config: Config, shape: MeshShape) -> int:
    """Canvases of which columns are resampled and rows are not yet, for all global crops."""
    size = build_views(config).global_crops_size
    rows = GLOBAL_VIEWS * padded(config.data.canvas_px) * size
    images = images_per_device(config, shape, micro_batch=True)
    return images * rows * config.student.in_chans * 4


def kept_for_backward(config: Config, shape: MeshShape) -> int:
    """Per layer: its input, and what the remat policy keeps of the rows that branches run on."""
    backbone = build_model(config).backbone
    item = np.dtype(backbone.precision.compute).itemsize
    if isinstance(backbone, ConvNeXt):
        return convnext_memory.kept_for_backward(backbone, crop_streams(config, shape), item)
    total = 0
    for crops, kept, length in token_streams(config, shape):
        stream = crops * padded(length, SUBLANES) * backbone.embed_dim * item
        total += backbone.depth * (stream + kept * _saved_per_crop(backbone, shape, length))
    return total


def _saved_per_crop(backbone: VisionTransformer, shape: MeshShape, length: int) -> int:
    """Bytes that a layer keeps of one crop besides its input."""
    if backbone.remat == "full":
        return 0
    width, hidden = backbone.embed_dim, hidden_features(backbone) // shape.tensor
    inputs = 2 if backbone.ffn_layer != "mlp" else 1
    item, tokens = np.dtype(backbone.precision.compute).itemsize, padded(length, SUBLANES)
    if backbone.remat == "dots":
        return item * tokens * (4 * width // shape.tensor + inputs * hidden + 2 * width)
    # Everything that is not fused: six widths of it, and attention's weights, in float32 as well.
    branches = tokens * (item * (4 * inputs * hidden + 10 * width) + 4 * 6 * width)
    weights = backbone.num_heads // shape.tensor * length * padded(length)
    return branches + weights * (item if item >= 4 else item + 4)


def layer_workspace(config: Config, shape: MeshShape) -> int:
    """Of both streams, whose backward passes XLA interleaves.

    Hidden features before and after the activation and their gradients; normed inputs in float32;
    the residual branch in the compute dtype; q, k and v. Where no kernel computes attention, these
    in float32, its weights and, where they come in blocks, keys, values and their gradients.
    """
    backbone = build_model(config).backbone
    if isinstance(backbone, ConvNeXt):
        return convnext_memory.layer_workspace(backbone, crop_streams(config, shape))
    heads, hidden = backbone.num_heads // shape.tensor, hidden_features(backbone) // shape.tensor
    item = np.dtype(backbone.precision.compute).itemsize
    width = backbone.embed_dim
    total = 0
    for _, kept, length in token_streams(config, shape):
        features = (7 if backbone.ffn_layer != "mlp" else 4) * item * hidden
        features += width * (2 * 4 + 6 * item)
        if has_kernel(backbone, kept, length, shape.tensor):
            features += width * 3 * item // shape.tensor
        else:
            blocks, queries = query_blocks(length)
            features += width * (3 if blocks == 1 else 7) * 4 // shape.tensor
            total += kept * heads * queries * padded(length) * 4
        total += kept * padded(length, SUBLANES) * features
    return total


def has_kernel(backbone: VisionTransformer, crops: int, length: int, tensor: int) -> bool:
    """Whether attention is one kernel, which holds its weights and rotations in VMEM."""
    if backbone.attention_backend == "reference":
        return False
    head_dim = backbone.embed_dim // backbone.num_heads
    tables = backbone.precision.rope if backbone.pos_embed_grid is None else None
    heads = backbone.num_heads // (1 if backbone.num_heads % tensor else tensor)
    shape = (1, crops, length, heads, head_dim)
    return attention_tpu.unsupported(shape, backbone.precision.compute, tables) is None


def teacher_workspace(config: Config, shape: MeshShape) -> int:
    """Of the larger forward pass of the teachers, which keep nothing but a layer's input.

    Attention: q, k, v and, without a kernel, q and k in float32 before and after their rotation and
    the weights in float32. FFN: hidden features before and after the activation.
    """
    largest = 0
    for backbone, (crops, _, length) in teacher_streams(config, shape):
        if isinstance(backbone, ConvNeXt):
            continue
        item, tokens = np.dtype(backbone.precision.compute).itemsize, padded(length, SUBLANES)
        inputs = 2 if backbone.ffn_layer != "mlp" else 1
        attend = tokens * backbone.embed_dim * 3 * item
        if not has_kernel(backbone, crops, length, shape.tensor):
            attend += tokens * backbone.embed_dim * 4 * 4
            attend += backbone.num_heads * query_blocks(length)[1] * padded(length) * 4
        feed_forward = tokens * (inputs + 1) * hidden_features(backbone) * item
        stream = tokens * 2 * backbone.embed_dim * item
        largest = max(largest, crops * (stream + max(attend, feed_forward) // shape.tensor))
    return largest


def similarity_bytes(config: Config, shape: MeshShape) -> int:
    """Of Gram anchoring: student's, teacher's, their difference and its gradient, in float32."""
    if not config.gram.use_loss:
        return 0
    crops, side = crop_streams(config, shape)[0]
    patches = (side // build_model(config).backbone.stride) ** 2
    if config.gram.img_level:
        return crops * patches * padded(patches) * 4 * 4
    group = GLOBAL_VIEWS * draw_group_size(config)
    return crops // group * (group * patches) * padded(group * patches) * 4 * 4


def hidden_features(backbone: VisionTransformer) -> int:
    return hidden_width(backbone.embed_dim, backbone.ffn_ratio, backbone.ffn_layer)
