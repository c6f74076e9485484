"""Semantic segmentation as published: BatchNorm and a 1x1 convolution on frozen patches.

DINOv2 (arXiv:2304.07193, section 7.4) and DINOv3 (arXiv:2508.10104, section 6.1.2): trained by
AdamW on augmented crops, tested on sliding windows, at one scale or several ("+ms").
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dinojax.data.map_batches import NO_CLASS, MapBatch
from dinojax.evaluation.head_training import Encoder, Example, Trainer, make_trainer
from dinojax.evaluation.miou import SegmentationScores, class_index, count, score
from dinojax.evaluation.ridge import LinearHead
from dinojax.evaluation.segmentation_views import SegmentationViews
from dinojax.evaluation.sliding import Windows
from dinojax.evaluation.whole_images import make_predictor
from dinojax.kernels.resize import resize_grid
from dinojax.schedules import Schedule
from dinojax.typing import Array, Bool, Float, Int, Key, Params, Step


def make_segmentation_trainer(
    encode: Encoder,
    views: SegmentationViews,
    numbers: Sequence[int],
    *,
    rate: Schedule,
    weight_decay: float,
    dropout: float,
) -> Trainer:
    """See `make_trainer`; `numbers` are the class numbers that count, ascending."""

    def view(key: Key, canvas: Array, size: Array, map: Array) -> tuple[Array, Array, Array]:
        labels = class_index(map, np.asarray(numbers))
        return views(key, canvas, size, labels, len(numbers))

    return make_trainer(
        encode,
        view,
        pixel_cross_entropy,
        optax.adamw(rate, b1=0.9, b2=0.999, weight_decay=weight_decay),  # type: ignore[arg-type]
        outputs=len(numbers),
        dropout=dropout,
    )


def pixel_cross_entropy(
    scores: Float[Array, "b r c K"],
    labels: Int[Array, "b h w"],
    valid: Bool[Array, " b"],
    step: Step = 0,
) -> Float[Array, ""]:
    """Scores interpolated to pixels; the mean over all of them, of which ignored ones add 0."""
    pixels = resize_grid(scores, labels.shape[1:], method="bilinear")  # type: ignore[arg-type]
    losses = optax.softmax_cross_entropy_with_integer_labels(pixels, jnp.maximum(labels, 0))
    return jnp.where((labels >= 0) & valid[:, None, None], losses, 0).mean()


def examples(batches: Iterable[MapBatch]) -> Iterator[Example]:
    """Batches as the trainer takes them."""
    for batch in batches:
        yield Example(batch["canvas"], batch["size"], batch["segmentation"], batch["valid"])


Judge = Callable[[Params, LinearHead, Iterable[MapBatch]], SegmentationScores]


def make_segmentation_judge(encode: Encoder, numbers: Sequence[int], windows: Windows) -> Judge:
    """mIoU of whole images at the pixels of their maps, for one head after the other.

    Raises:
        ValueError: there is no labelled pixel.
    """
    predict = make_predictor(encode, windows)

    def judge(params: Params, head: LinearHead, batches: Iterable[MapBatch]) -> SegmentationScores:
        confusion = np.zeros((len(numbers), len(numbers)), np.int64)
        for batch in batches:
            maps = predict(params, head, batch["canvas"], batch["size"])
            for slot, scores in enumerate(maps):
                if batch["valid"][slot]:
                    labels = _padded(batch["segmentation"][slot], batch["size"][slot], scores.shape)
                    index = class_index(labels, np.asarray(numbers))
                    confusion += np.asarray(_confusion(scores, index))
        return score(confusion, list(numbers))

    return judge


def _padded(
    map: Int[np.ndarray, "H W"], size: Int[np.ndarray, "2"], shape: tuple[int, ...]
) -> Int[np.ndarray, "h w"]:
    """The image's part of a map on a canvas, with as much margin as its scores have."""
    rows, columns = size.tolist()
    margin = (0, shape[0] - rows), (0, shape[1] - columns)
    return np.pad(map[:rows, :columns], margin, constant_values=NO_CLASS)


@jax.jit
def _confusion(scores: Float[Array, "H W K"], labels: Int[Array, "H W"]) -> Int[Array, "K K"]:
    return count(scores.argmax(-1), labels, scores.shape[-1])
