"""What frozen features are scored by; the protocol of each task is hashed with its scores."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from dinojax.build_model import build_backbone
from dinojax.build_monitor import StateMonitor
from dinojax.config import Config
from dinojax.data.map_batches import find_classes, map_batches
from dinojax.data.source import Source
from dinojax.evaluation.features import make_dense_encoder
from dinojax.evaluation.monitor import evenly
from dinojax.evaluation.segmentation import linear_segmentation
from dinojax.precision import get_precision
from dinojax.typing import Params

RIDGE = 1e-3


class Task(NamedTuple):
    """A kind of score."""

    protocol: Callable[[Config], dict[str, Any]]
    """Everything that a value depends on, apart from model and records."""
    run: Callable[[Config, Params, Source, Source], Iterator[tuple[str, float]]]
    """Yields (metric, value) for parameters, training and held-out records."""


def _images(config: Config) -> dict[str, Any]:
    """What all protocols have."""
    return {
        "image_px": config.knn.image_px,
        "canvas_px": config.data.canvas_px,
        "rgb_mean": list(config.crops.rgb_mean),
        "rgb_std": list(config.crops.rgb_std),
        "precision": config.train.precision,
        "holdout": config.data.holdout,
    }


def _knn_protocol(config: Config) -> dict[str, Any]:
    knn = config.knn
    return {
        **_images(config),
        "features": "normed CLS",
        "k": knn.k,
        "temperature": knn.temperature,
        "max_bank": knn.max_bank,
        "max_queries": knn.max_queries,
    }


def _knn(
    config: Config, params: Params, bank: Source, queries: Source
) -> Iterator[tuple[str, float]]:
    scores = StateMonitor(config, bank, queries).score(params)
    yield "top1", scores["knn"]
    yield "top1_pixels", scores["knn_pixels"]


def _segmentation_protocol(config: Config) -> dict[str, Any]:
    return {
        **_images(config),
        "features": "normed patches",
        "head": "ridge",
        "ridge": RIDGE,
        "train_images": config.knn.max_bank,
        "held_out_images": config.knn.max_queries,
    }


def _segmentation(
    config: Config, params: Params, bank: Source, queries: Source
) -> Iterator[tuple[str, float]]:
    parts = evenly(bank, config.knn.max_bank), evenly(queries, config.knn.max_queries)
    classes = sorted({number for part in parts for number in find_classes(part)})
    if not classes:
        raise ValueError(
            f"data.source={config.data.source!r} has no segmentation maps to score with; leave the "
            "task out, or give others with --data"
        )
    encode = make_dense_encoder(
        build_backbone(config, get_precision(config.train.precision)),
        image_px=config.knn.image_px,
        mean=config.crops.rgb_mean,
        std=config.crops.rgb_std,
    )
    batches = [
        map_batches(
            part,
            config.knn.batch_size,
            config.data.canvas_px,
            read_timeout_s=config.data.read_timeout_s,
            channels=config.student.in_chans,
        )
        for part in parts
    ]
    with contextlib.closing(batches[0]), contextlib.closing(batches[1]):
        scores = linear_segmentation(
            functools.partial(encode, params),
            *batches,
            classes=classes,
            image_px=config.knn.image_px,
            ridge=RIDGE,
        )
    yield "miou", scores.miou


TASKS = {
    "knn": Task(_knn_protocol, _knn),
    "segmentation": Task(_segmentation_protocol, _segmentation),
}


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises ValueError: none, or one that is not in `TASKS`."""
    unknown = [name for name in tasks if name not in TASKS]
    if unknown or not tasks:
        raise ValueError(f"--tasks={','.join(tasks)}: use one or several of {', '.join(TASKS)}")
