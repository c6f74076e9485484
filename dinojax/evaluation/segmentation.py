"""Semantic segmentation with a linear head on frozen patch features, and its mIoU.

The protocol, which has no randomness and only `ridge` to choose:

1. Images are centre crops of `image_px`, maps the same crops at the nearest pixels.
2. Least squares with a ridge penalty from a patch's feature to the class of each of its labelled
   pixels, as one-hot targets (`dinojax.evaluation.ridge`), over the training images.
3. On the held-out images the scores of the patches are interpolated bilinearly to pixels; the
   largest one is the class. mIoU is over all their labelled pixels together, not per image.

Pixels of classes that are ignored count nowhere. The published protocols train a BatchNorm and a
1x1 convolution step by step at larger sizes (`dinojax.evaluation.segmentation_head`): their scores
are higher, the order of models is what this one is for.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from dinojax.data.map_batches import MapBatch
from dinojax.evaluation.features import DenseFeatures, centre_maps
from dinojax.evaluation.miou import SegmentationScores, class_index, count, score
from dinojax.evaluation.ridge import LinearHead, Moments, fit_ridge, moments
from dinojax.typing import Array, Float, Int

DenseEncoder = Callable[[Any, Any], DenseFeatures]
"""``(canvas, size) -> features`` of centre crops."""


def linear_segmentation(
    encode: DenseEncoder,
    train: Iterable[MapBatch],
    test: Iterable[MapBatch],
    *,
    classes: Sequence[int],
    image_px: int,
    ridge: float = 1e-3,
) -> SegmentationScores:
    """Fit the head on `train` and score it on `test`.

    Args:
        classes: the numbers in the maps that count; all others are ignored.
        image_px: the side that `encode` crops to.

    Raises:
        ValueError: no class, or no pixel of them on either side.
    """
    if not classes:
        raise ValueError("classes is empty; give images with segmentation maps")
    numbers = np.asarray(sorted(classes), np.int32)
    total = None
    for batch in train:
        features = encode(batch["canvas"], batch["size"])
        found = _batch_moments(features.patches, batch, numbers, image_px)
        total = found if total is None else total.plus(found)
    if total is None:
        raise ValueError("there are no training images with maps; give some")
    head = fit_ridge(total, ridge)
    head = LinearHead(*(jnp.asarray(part, features.patches.dtype) for part in head))
    confusion = np.zeros((len(numbers), len(numbers)), np.int64)
    for batch in test:
        features = encode(batch["canvas"], batch["size"])
        labels = _labels(batch, numbers, image_px)
        confusion += np.asarray(_confusion(head, features.patches, labels))
    return score(confusion, numbers.tolist())


def _labels(batch: MapBatch, numbers: Int[np.ndarray, " K"], image_px: int) -> Int[Array, "b S S"]:
    """Positions in `numbers` of the pixels' classes; -1: ignored."""
    maps = np.where(batch["valid"][:, None, None], batch["segmentation"], -1)
    return class_index(centre_maps(maps, batch["size"], image_px), numbers)


def _batch_moments(
    patches: Float[Array, "b h w D"],
    batch: MapBatch,
    numbers: Int[np.ndarray, " K"],
    image_px: int,
) -> Moments:
    labels = _labels(batch, numbers, image_px)
    return moments(*_samples(patches, labels, classes=len(numbers)))


@jax.jit(static_argnames="classes")
def _samples(
    patches: Float[Array, "b h w D"], labels: Int[Array, "b S S"], classes: int
) -> tuple[Float[Array, "n D"], Float[Array, "n K"], Float[Array, " n"]]:
    """Patches, the shares of the classes among their labelled pixels, and how many these are."""
    _, rows, columns, _ = patches.shape
    pixels = rearrange(labels, "b (h p) (w q) -> (b h w) (p q)", h=rows, w=columns)
    counts = jax.nn.one_hot(pixels, classes, dtype=patches.dtype).sum(1)  # zeros for -1
    weight = counts.sum(-1)
    shares = counts / jnp.maximum(weight, 1)[:, None]
    return rearrange(patches, "b h w D -> (b h w) D"), shares, weight


@jax.jit
def _confusion(
    head: LinearHead, patches: Float[Array, "b h w D"], labels: Int[Array, "b S S"]
) -> Int[Array, "K K"]:
    classes = head.bias.shape[0]
    exact = jax.lax.Precision.HIGHEST
    scores = jnp.matmul(patches, head.weights, precision=exact) + head.bias
    shape = (*labels.shape, classes)
    predicted = jax.image.resize(scores, shape, "bilinear").argmax(-1)
    return count(predicted, labels, classes)
