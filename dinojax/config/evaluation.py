"""The configuration of an evaluation: its records, how images are prepared, and each protocol.

Without a file the defaults hold; files in ``configs/eval/`` state published protocols.
"""

from dataclasses import dataclass
from typing import Any

import ml_collections

from dinojax.config.parse import parse, to_config_dict
from dinojax.tasks.correspondence import CorrespondenceProtocol
from dinojax.tasks.depth import DepthProtocol
from dinojax.tasks.discovery import DiscoveryProtocol
from dinojax.tasks.fewshot import FewshotProtocol
from dinojax.tasks.knn import KnnProtocol
from dinojax.tasks.linear import LinearProtocol
from dinojax.tasks.logistic import LogisticProtocol
from dinojax.tasks.propagation import PropagationProtocol
from dinojax.tasks.retrieval import RetrievalProtocol
from dinojax.tasks.segmentation import SegmentationProtocol


@dataclass(frozen=True)
class ImagesConfig:
    """From a file to the backbone's input."""

    image_px: int | None = None
    """Side of what the backbone sees. None: knn.image_px of the run; without a run 224."""
    resize_px: int | None = None
    """Shorter side that images are resized to before the middle is cut out. None: image_px."""
    fit: str = "crop"
    """"crop": the middle. "whole": all of the image, its sides resized to a square."""
    batch_size: int = 256


@dataclass(frozen=True)
class RecordsConfig:
    """What features are scored on; --data says where it lies."""

    layout: str | None = None
    """Name of a published dataset's layout (`dinojax.data.layouts.table.LAYOUTS`), which --data is
    a folder of. None: --data is any source with labels, as data.source, or that of the run."""
    holdout: float = 0.1
    """Share of --data that is scored; the rest is fitted on. A layout has its own parts, and the
    records of the run are split as it split them."""
    max_train: int | None = None
    """Most training records, evenly spread. None: knn.max_bank of the run. 0: all."""
    max_test: int | None = None
    """Most held-out records. None: knn.max_queries of the run. 0: all."""


@dataclass(frozen=True)
class EvalConfig:
    """One section per task, under its name in `dinojax.tasks.table.TASKS`."""

    tasks: tuple[str, ...] = ("knn",)
    published: tuple[tuple[str, str, float, str], ...] = ()
    """(architecture, TASK_METRIC, value, source) that are shown beside scores of this one."""
    images: ImagesConfig = ImagesConfig()
    records: RecordsConfig = RecordsConfig()
    knn: KnnProtocol = KnnProtocol()
    logistic: LogisticProtocol = LogisticProtocol()
    linear: LinearProtocol = LinearProtocol()
    fewshot: FewshotProtocol = FewshotProtocol()
    retrieval: RetrievalProtocol = RetrievalProtocol()
    segmentation: SegmentationProtocol = SegmentationProtocol()
    depth: DepthProtocol = DepthProtocol()
    correspondence: CorrespondenceProtocol = CorrespondenceProtocol()
    discovery: DiscoveryProtocol = DiscoveryProtocol()
    propagation: PropagationProtocol = PropagationProtocol()


# Any: as for `dinojax.config.default_config`.
def default_config() -> Any:
    """The defaults as a locked ConfigDict, for files to change."""
    return to_config_dict(EvalConfig()).lock()


def parse_config(config: ml_collections.ConfigDict) -> EvalConfig:
    """Typed configuration from a file.

    Raises:
        ValueError: an unknown key (with the nearest known one) or a value of the wrong type.
    """
    return parse(EvalConfig, config.to_dict())
