"""What a task is, and what it is given."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from dinojax.data.eval_records import EvalRecords
from dinojax.mesh import current_batch_shards
from dinojax.models.pixels import Pixels
from dinojax.models.presets import Backbone
from dinojax.typing import Params

SEEDS = (0, 1, 2)


class Score(NamedTuple):
    """One number."""

    metric: str
    value: float
    spread: float | None = None
    """Standard deviation over seeds; None: no seed is involved, or one alone."""


@dataclass(frozen=True)
class Encoder:
    """A frozen backbone, and the pixels that it expects."""

    fingerprint: str
    """16 hex digits of its weights."""
    backbone: Backbone | Pixels
    params: Params
    mean: tuple[float, ...]
    """Of pixels in 0..1, per channel; there are as many channels."""
    std: tuple[float, ...]


@dataclass(frozen=True)
class Preparation:
    """From a file to the backbone's input, and where features are kept."""

    image_px: int
    """Side of what the backbone sees."""
    resize_px: int
    """Shorter side that images are resized to before the middle is cut out of them."""
    fit: Literal["crop", "whole"]
    """Whether that middle is seen, or all of the image, resized to a square."""
    canvas_px: int
    """Side that larger images are averaged down to before that."""
    batch_size: int
    read_timeout_s: float
    folder: Path
    """Of stored features."""


Keep = Callable[[int, Callable[[int], Mapping[str, float]]], Mapping[str, float]]
"""(seed, what is to run with it) -> its metrics: of the run, or those known from an earlier one."""


def compute(seed: int, run: Callable[[int], Mapping[str, float]]) -> Mapping[str, float]:
    """The `Keep` that knows nothing."""
    return run(seed)


@dataclass(frozen=True)
class Evaluation:
    """One backbone on one set of records; used under `jax.set_mesh`."""

    encoder: Encoder
    records: EvalRecords
    fingerprints: Mapping[str, str]
    """Of the records' parts, ``train`` and ``test``, with their labels (`truth_digest`)."""
    preparation: Preparation
    keep: Keep = compute
    """Of the task's seeds that are finished; for `over_seeds`."""

    @property
    def protocol(self) -> dict[str, Any]:
        """What the protocols of all tasks have in common; JSON values."""
        encoder, preparation = self.encoder, self.preparation
        return {
            "image_px": preparation.image_px,
            "resize_px": preparation.resize_px,
            "fit": preparation.fit,
            "canvas_px": preparation.canvas_px,
            "mean": list(encoder.mean),
            "std": list(encoder.std),
            "compute": jnp.dtype(encoder.backbone.precision.compute).name,
        }

    @property
    def reading(self) -> dict[str, Any]:
        """Keyword arguments of `sequential_batches` and `map_batches`."""
        return {
            "batch": self.preparation.batch_size,
            "canvas_px": self.preparation.canvas_px,
            "read_timeout_s": self.preparation.read_timeout_s,
            "channels": len(self.encoder.mean),
        }


class Task(NamedTuple):
    """A kind of score."""

    protocol: type
    """A frozen dataclass: everything that a value depends on besides backbone, records and
    `Evaluation.protocol`."""
    needs: frozenset[str]
    """What the records must have: keys of `dinojax.data.eval_records.NEEDS`."""
    run: Callable[[Any, Evaluation], Iterator[Score]]
    cuts: bool = True
    """Whether it sees images as images.resize_px and images.fit say; else they are not of its
    protocol."""
    whole_patches: bool = True
    """Whether images.image_px must be a multiple of the patch."""

    def shared(self, evaluation: Evaluation) -> dict[str, Any]:
        """What of `Evaluation.protocol` its values depend on."""
        unseen = () if self.cuts else ("resize_px", "fit")
        return {key: value for key, value in evaluation.protocol.items() if key not in unseen}


def over_seeds(
    run: Callable[[int], Mapping[str, float]], seeds: Sequence[int], keep: Keep = compute
) -> Iterator[Score]:
    """The mean of each metric over seeds, and its standard deviation (n - 1) as the spread.

    Of a metric that not all seeds have, as the IoU of a class that one alone predicts, over those
    that have it.

    Raises:
        ValueError: no seed.
    """
    if not seeds:
        raise ValueError("seeds is empty; use 0,1,2")
    found = [keep(seed, run) for seed in seeds]
    for metric in dict.fromkeys(metric for one in found for metric in one):
        values = np.array([one[metric] for one in found if metric in one], np.float64)
        spread = float(values.std(ddof=1)) if len(values) > 1 else None
        yield Score(metric, float(values.mean()), spread)


def check_batch(batch: int, key: str) -> None:
    """Raises ValueError: the devices cannot share a batch of this size, which `key` sets."""
    shards = current_batch_shards()
    if batch < 1 or batch % shards:
        raise ValueError(
            f"{key}={batch} must be a multiple of the {shards} devices that share a batch; use "
            f"{-(-max(batch, 1) // shards) * shards}"
        )
