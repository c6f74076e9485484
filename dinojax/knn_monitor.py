"""From a configuration to the kNN monitor of a run."""

from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from dinojax.build_model import build_backbone
from dinojax.config import Config
from dinojax.data.source import Source
from dinojax.evaluation.features import make_encoder
from dinojax.evaluation.monitor import KnnMonitor, evenly
from dinojax.precision import get_precision
from dinojax.ssl.students import Students
from dinojax.students import student_configs

Monitor = Callable[[Any], Mapping[str, float]]
"""Scores of a state by name."""


def make_monitor(config: Config, bank: Source | None, queries: Source | None) -> Monitor | None:
    """The kNN monitor, or None where the data have no labels or the config wants none.

    Of several students there is one each, whose scores are ``NAME/knn``.
    """
    if not config.knn.every_steps:
        return None
    if bank is None or queries is None or bank.class_names is None:
        logging.warning("the data have no labels: no kNN monitor")
        return None
    monitors = {
        name: make_knn_monitor(one, bank, queries) for name, one in student_configs(config).items()
    }
    if not monitors:
        return make_knn_monitor(config, bank, queries)

    def evaluate(state: Students) -> dict[str, float]:
        return {
            f"{name}/{score}": value
            for name, monitor in monitors.items()
            for score, value in monitor(state.students[name]).items()
        }

    return evaluate


def make_knn_monitor(config: Config, bank: Source, queries: Source) -> KnnMonitor:
    """Of one student, on labelled records."""
    assert bank.class_names is not None
    encode = make_encoder(
        build_backbone(config, get_precision(config.train.precision)),
        image_px=config.knn.image_px,
        mean=config.crops.rgb_mean,
        std=config.crops.rgb_std,
    )
    return KnnMonitor(
        encode,
        evenly(bank, config.knn.max_bank),
        evenly(queries, config.knn.max_queries),
        num_classes=len(bank.class_names),
        canvas_px=config.data.canvas_px,
        batch_size=config.knn.batch_size,
        read_timeout_s=config.data.read_timeout_s,
        k=config.knn.k,
        temperature=config.knn.temperature,
        channels=config.student.in_chans,
    )
