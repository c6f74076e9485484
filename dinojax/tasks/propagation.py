"""Masks of a video's first frame carried through the others: J and F."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.data.maps import Pixels, decode_record
from dinojax.data.reading import read_record
from dinojax.data.sequences import find_sequences
from dinojax.evaluation.frames import Frame, cut
from dinojax.evaluation.head_training import Encoder
from dinojax.evaluation.propagation import Neighbours, hard_masks, propagate
from dinojax.evaluation.video_scores import VideoScores, score_object
from dinojax.tasks.dense import patch_encoder
from dinojax.tasks.task import Evaluation, Score, Task
from dinojax.typing import Array, Float, Params, Shaped, UInt8


@dataclass(frozen=True)
class PropagationProtocol:
    """The defaults are those of DINOv3 (arXiv:2508.10104, section 6.1.5), apart from the size."""

    short_px: int | None = None
    """Shorter side of the frames. None: images.image_px."""
    canvas_px: int | None = None
    """Side that larger frames are averaged down to, with their maps. None: that of the data."""
    neighbours: Neighbours = Neighbours()
    ignored: tuple[int, ...] = (0, 255)
    """Numbers in the maps that are no objects."""
    inner: bool = True
    """Whether the last frame of a video is left out of the scores, as by DAVIS; the first is
    always."""


def _run(protocol: PropagationProtocol, evaluation: Evaluation) -> Iterator[Score]:
    short_px = protocol.short_px or evaluation.preparation.image_px
    source = evaluation.records.test
    encode = _frame_encoder(patch_encoder(evaluation), evaluation.encoder.backbone.stride, short_px)
    scores: list[VideoScores] = []
    for indices in find_sequences(source).values():
        frames = [
            decode_record(
                read_record(source, index),
                protocol.canvas_px or evaluation.preparation.canvas_px,
                len(evaluation.encoder.mean),
            )
            for index in indices
        ]
        scores += _video(protocol, encode, evaluation.encoder.params, frames)
    if not scores:
        raise ValueError(
            "no video has an object in its first frame and a map of a later one; give frames with "
            "segmentation maps, named by number"
        )
    region, boundary = (float(np.mean(part)) for part in zip(*scores, strict=True))
    yield Score("jf", (region + boundary) / 2)
    yield Score("j", region)
    yield Score("f", boundary)


def _video(
    protocol: PropagationProtocol, encode, params: Params, frames: Sequence[Pixels]
) -> list[VideoScores]:
    """One score per object of the first frame."""
    first = frames[0].segmentation
    if first is None:
        return []
    numbers = np.unique(first)
    objects = [int(number) for number in numbers if number not in protocol.ignored]
    features = (encode(params, jnp.asarray(frame.image)) for frame in frames)
    start = next(features)
    masks = propagate(
        _chain(start, features), _to_patches(first, numbers, start.shape[:2]), protocol.neighbours
    )
    found, true = [], []
    last = len(frames) - (protocol.inner and len(frames) > 2)
    for frame, mask in zip(frames[1:last], masks, strict=False):
        if frame.segmentation is not None:
            hard = hard_masks(mask, frame.segmentation.shape)
            found.append(numbers[np.asarray(hard)])
            true.append(frame.segmentation)
    return [score_object(found, true, number) for number in objects] if found else []


def _chain(first: Array, others: Iterator[Array]) -> Iterator[Array]:
    yield first
    yield from others


def _to_patches(
    map: Shaped[np.ndarray, "H W"], numbers: Shaped[np.ndarray, " K"], grid: tuple[int, ...]
) -> Float[Array, "h w K"]:
    """The class at the middle of each patch, as shares."""
    rows, columns = (
        (2 * np.arange(cells) + 1) * length // (2 * cells)
        for cells, length in zip(grid, map.shape, strict=True)
    )
    nearest = map[rows][:, columns]
    return jnp.asarray(nearest[..., None] == numbers, jnp.result_type(float))


def _frame_encoder(encode: Encoder, stride: int, short_px: int):
    """``(parameters, image [H, W, C]) -> patches`` of the image at whole patches."""

    @jax.jit
    def run(params: Params, image: UInt8[Array, "H W C"]) -> Float[Array, "h w D"]:
        shape = image.shape[:2]
        scale = short_px / min(shape)
        height, width = (max(round(side * scale / stride), 1) * stride for side in shape)
        frame = Frame(jnp.array((height, width)), jnp.array((0, 0)))
        crop, content = cut(image, jnp.array(shape), frame, (height, width))
        return encode(params, crop[None], content[None])[0]

    return run


PROPAGATION = Task(
    PropagationProtocol,
    frozenset({"segmentation", "videos"}),
    _run,
    cuts=False,
    whole_patches=False,
)
