"""Semantic segmentation with a linear head on frozen patch features."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

from dinojax.data.map_batches import find_classes, map_batches
from dinojax.evaluation.features import make_dense_encoder
from dinojax.evaluation.head_training import shuffled
from dinojax.evaluation.miou import SegmentationScores
from dinojax.evaluation.one_cycle import poly_rate, segmentation_rate
from dinojax.evaluation.segmentation import linear_segmentation
from dinojax.evaluation.segmentation_head import (
    examples,
    make_segmentation_judge,
    make_segmentation_trainer,
)
from dinojax.evaluation.segmentation_views import SegmentationViews
from dinojax.evaluation.sliding import Windows
from dinojax.tasks.dense import patch_encoder, reading
from dinojax.tasks.task import SEEDS, Evaluation, Score, Task, over_seeds

HEADS = ("ridge", "linear")
SCHEDULES = {"one_cycle": segmentation_rate, "poly": poly_rate}


@dataclass(frozen=True)
class SegmentationTraining:
    """The trained head: the defaults are those of DINOv3's code (ADE20K)."""

    layers: int = 1
    """Last layers whose normed patches are joined."""
    crop_px: int | None = None
    """Side of crops and windows. None: images.image_px."""
    short_px: int | None = None
    """Shorter side of the image at scale 1. None: crop_px."""
    stride_px: int | None = None
    """Between windows. None: two thirds of crop_px."""
    canvas_px: int | None = None
    """Side that larger images are averaged down to, with their maps. None: that of the data."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Of training images."""
    distort: bool = True
    """Colours of training images."""
    test_scales: tuple[float, ...] = (1.0,)
    test_flip: bool = False
    """Whether mirror images are averaged in; so are several scales."""
    dropout: float = 0.1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    schedule: str = "one_cycle"
    """"one_cycle" (DINOv3) or "poly" (DINOv2)."""
    warmup_steps: int = 1500
    steps: int = 40_000
    batch_size: int = 16


@dataclass(frozen=True)
class SegmentationProtocol:
    """Which head, and which classes count."""

    head: str = "ridge"
    """"ridge": least squares in closed form, on centre crops. "linear": BatchNorm and a 1x1
    convolution, trained as the section says, tested on whole images."""
    classes: tuple[int, int] | None = None
    """First and last number in the maps that counts. None: all that occur."""
    ignored: tuple[int, ...] = ()
    """Numbers that do not."""
    ridge: float = 1e-3
    linear: SegmentationTraining = SegmentationTraining()
    seeds: tuple[int, ...] = SEEDS
    """Of the trained head."""


def _run(protocol: SegmentationProtocol, evaluation: Evaluation) -> Iterator[Score]:
    if protocol.head not in HEADS:
        raise ValueError(f"segmentation.head={protocol.head!r} is unknown; use one of {HEADS}")
    records, numbers = evaluation.records, protocol.classes
    if numbers is not None:
        classes = set(range(numbers[0], numbers[1] + 1))
    else:
        classes = {n for part in (records.train, records.test) for n in find_classes(part)}
    counted = sorted(classes - set(protocol.ignored))
    if protocol.head == "ridge":
        yield from map(_score, _by_name(_ridge(protocol, evaluation, counted)).items())
    else:
        yield from _linear(protocol, evaluation, counted)


def _score(named: tuple[str, float]) -> Score:
    return Score(*named)


def _by_name(scores: SegmentationScores) -> dict[str, float]:
    return {"miou": scores.miou} | {f"iou_{number}": iou for number, iou in scores.iou.items()}


def _ridge(
    protocol: SegmentationProtocol, evaluation: Evaluation, classes: list[int]
) -> SegmentationScores:
    encoder, records = evaluation.encoder, evaluation.records
    image_px = evaluation.preparation.image_px
    encode = make_dense_encoder(
        encoder.backbone, image_px=image_px, mean=encoder.mean, std=encoder.std
    )
    batches = [map_batches(part, **evaluation.reading) for part in (records.train, records.test)]
    with contextlib.closing(batches[0]), contextlib.closing(batches[1]):
        return linear_segmentation(
            functools.partial(encode, encoder.params),
            *batches,
            classes=classes,
            image_px=image_px,
            ridge=protocol.ridge,
        )


def _linear(
    protocol: SegmentationProtocol, evaluation: Evaluation, classes: list[int]
) -> Iterator[Score]:
    options, records = protocol.linear, evaluation.records
    if options.schedule not in SCHEDULES:
        raise ValueError(
            f"segmentation.linear.schedule={options.schedule!r} is unknown; use one of "
            f"{', '.join(SCHEDULES)}"
        )
    crop_px = options.crop_px or evaluation.preparation.image_px
    short_px = options.short_px or crop_px
    encode = patch_encoder(evaluation, options.layers)
    train = make_segmentation_trainer(
        encode,
        SegmentationViews(crop_px, short_px, options.scale, distort=options.distort),
        classes,
        rate=SCHEDULES[options.schedule](
            options.learning_rate, options.warmup_steps, options.steps
        ),
        weight_decay=options.weight_decay,
        dropout=options.dropout,
    )
    windows = Windows(
        crop_px,
        options.stride_px or crop_px * 2 // 3,
        short_px,
        options.test_scales,
        options.test_flip,
    )
    judge = make_segmentation_judge(encode, classes, windows)
    batch, params = options.batch_size, evaluation.encoder.params
    how = reading(evaluation, batch, options.canvas_px, "segmentation.linear.batch_size")

    def run(seed: int) -> dict[str, float]:
        shown = shuffled(records.train, options.steps, batch, seed)
        with contextlib.closing(map_batches(shown, **how)) as batches:
            head = train(params, examples(batches), seed)
        with contextlib.closing(map_batches(records.test, **how)) as batches:
            return _by_name(judge(params, head, batches))

    yield from over_seeds(run, protocol.seeds, evaluation.keep)


SEGMENTATION = Task(SegmentationProtocol, frozenset({"segmentation"}), _run, cuts=False)
