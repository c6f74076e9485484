"""From a configuration to records: what is trained on, in which order, and what is held out."""

from collections.abc import Generator, Sequence
from typing import NamedTuple

from dinojax.config import Config
from dinojax.config.data import DataConfig
from dinojax.data.concat import Concat
from dinojax.data.open import open_source
from dinojax.data.order import Order
from dinojax.data.pipeline import TrainBatch, make_loader
from dinojax.data.source import Source
from dinojax.data.subset import holdout
from dinojax.mesh import BatchLayout


class TrainingData(NamedTuple):
    """Opened sources and the order in which a run goes through them."""

    source: Source
    """What is trained on: the parts of `order`, end to end."""
    order: Order
    bank: Source
    """The part that the monitor watches, without what is held out."""
    queries: Source
    """Held out of it."""


def open_data(config: Config, holdout_key: str = "data.holdout") -> TrainingData:
    """Open all sources.

    Args:
        holdout_key: what messages call the key that ``data.holdout`` is from.

    Raises:
        ValueError: a source that cannot be used.
        FileNotFoundError: one that does not exist.
    """
    data = config.data
    if not data.mixture:
        spec = data.source if data.ids is None else f"ids:{data.ids}:{data.source}"
        bank, queries = _split(_open(spec, data), data.source, data, holdout_key)
        return TrainingData(bank, build_order(config, (len(bank),)), bank, queries)
    names = [name for name, _ in data.mixture]
    parts = [_open(name, data) for name in names]
    monitored = _monitored(parts, _homogeneous_part(data))
    bank, queries = _split(parts[monitored], names[monitored], data, holdout_key)
    parts[monitored] = bank
    order = build_order(config, tuple(len(part) for part in parts))
    return TrainingData(Concat(parts), order, bank, queries)


def load_batches(
    config: Config, data: TrainingData, placement: BatchLayout, first: int
) -> Generator[TrainBatch, None, None]:
    """What this process holds of the batch of each step from `first` on; close it."""
    return make_loader(
        data.source,
        data.order,
        canvas_px=config.data.canvas_px,
        start_step=first,
        num_workers=config.data.num_workers,
        prefetch_mb=config.data.prefetch_mb,
        slots=placement.rows,
        channels=config.student.in_chans,
        read_timeout_s=config.data.read_timeout_s,
    )


def build_order(config: Config, sizes: tuple[int, ...]) -> Order:
    """The order of a run over parts of these sizes.

    Raises:
        ValueError: weights or shares that contradict each other.
    """
    data = config.data
    return Order(
        sizes=sizes,
        global_batch=config.train.batch_size,
        seed=config.train.seed,
        weights=tuple(weight for _, weight in data.mixture) or (1.0,),
        homogeneous_part=_homogeneous_part(data),
        homogeneous_share=data.homogeneous_share,
    )


def _homogeneous_part(data: DataConfig) -> int | None:
    if data.homogeneous_source is None:
        return None
    return [name for name, _ in data.mixture].index(data.homogeneous_source)


def _monitored(parts: Sequence[Source], homogeneous: int | None) -> int:
    """The homogeneous part if it has labels or no part has any; else the first that has some."""
    labelled = [i for i, part in enumerate(parts) if part.class_names is not None]
    candidates = labelled or list(range(len(parts)))
    return homogeneous if homogeneous in candidates else candidates[0]


def _open(name: str, data: DataConfig) -> Source:
    if not _is_scenes(name):
        return open_source(name)
    return _scenes(data, data.scenes.num_images, "train", name)


def _is_scenes(name: str) -> bool:
    """Also through lists of ids: ``ids:FILE:scenes``."""
    kind, _, rest = name.partition(":")
    return name == "scenes" or (kind == "ids" and _is_scenes(rest.partition(":")[2]))


def _split(source: Source, name: str, data: DataConfig, key: str) -> tuple[Source, Source]:
    """(training, held out) records of a source; scenes have a split of their own for it."""
    if not 0 < data.holdout < 1:
        raise ValueError(f"{key}={data.holdout} must lie between 0 and 1; use 0.1")
    if name != "scenes":
        return holdout(source, data.holdout, key)
    return source, _scenes(data, max(round(len(source) * data.holdout), 1), "test")


def _scenes(data: DataConfig, num_images: int, split: str, spec: str = "scenes") -> Source:
    return open_source(
        spec,
        num_images=num_images,
        split=split,
        image_px=data.scenes.image_px,
        num_classes=data.scenes.num_classes,
    )
