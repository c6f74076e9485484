"""From a configuration to the kNN monitor of a run."""

from absl import logging

from dinojax.build import build_backbone
from dinojax.config import Config
from dinojax.data.source import Source
from dinojax.evaluation.features import make_encoder
from dinojax.evaluation.monitor import KnnMonitor, evenly
from dinojax.precision import get_precision


def make_monitor(config: Config, bank: Source | None, queries: Source | None) -> KnnMonitor | None:
    """The kNN monitor, or None where the data have no labels or the config wants none."""
    if not config.knn.every_steps:
        return None
    classes = None if bank is None else bank.class_names
    if bank is None or queries is None or classes is None:
        logging.warning("the data have no labels: no kNN monitor")
        return None
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
        num_classes=len(classes),
        canvas_px=config.data.canvas_px,
        batch_size=config.knn.batch_size,
        read_timeout_s=config.data.read_timeout_s,
        k=config.knn.k,
        temperature=config.knn.temperature,
        channels=config.student.in_chans,
    )
