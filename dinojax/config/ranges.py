"""In which range each number of a configuration must lie, and a value that works."""

import math
from typing import Any, NamedTuple

from dinojax.config import Config


class Range(NamedTuple):
    """From `low` to `high`, both included unless `above` or `below`."""

    low: int
    high: int | float
    works: int | float
    above: bool = False
    below: bool = False

    def holds(self, value: int | float) -> bool:
        low = value > self.low if self.above else value >= self.low
        return low and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'be above' if self.above else 'be at least'} {self.low}"
        if self.above or self.below:
            return (
                f"be {'above' if self.above else 'at least'} {self.low} and "
                f"{'below' if self.below else 'at most'} {self.high}"
            )
        return f"lie in {self.low}..{self.high}"


def at_least(low: int, works: int | float | None = None) -> Range:
    return Range(low, math.inf, low if works is None else works)


def above(low: int, works: float) -> Range:
    return Range(low, math.inf, works, above=True)


RANGES = {
    "train.steps": at_least(1),
    "train.log_every_steps": at_least(1),
    "train.micro_batches": at_least(1),
    "train.prototype_chunk": at_least(1, 4096),
    "train.rollback_after": at_least(0),
    "train.hang_timeout_s": at_least(0, 1800.0),
    "panels.every_steps": at_least(0),
    "panels.images": at_least(1, 4),
    "student.in_chans": at_least(1, 3),
    "student.init_std": above(0, 0.02),
    "student.drop_path_rate": Range(0, 1, 0.3, below=True),
    "dino.koleo_topk": at_least(1),
    "dino.head.nlayers": at_least(1, 3),
    "ibot.head.nlayers": at_least(1, 3),
    "ibot.mask_sample_probability": Range(0, 1, 0.5),
    "optim.clip_grad": above(0, 3.0),
    "optim.adamw_beta1": Range(0, 1, 0.9, below=True),
    "optim.adamw_beta2": Range(0, 1, 0.999, below=True),
    "optim.layerwise_decay": above(0, 0.9),
    "data.canvas_px": at_least(1, 512),
    "data.num_workers": at_least(0),
    "data.prefetch_mb": at_least(0, 4096),
    "data.verify_images": at_least(0, 2048),
    "data.bad_budget": Range(0, 1, 0.01),
    "data.read_timeout_s": above(0, 300.0),
    "knn.every_steps": at_least(0),
    "knn.k": at_least(1, 20),
    "knn.image_px": at_least(1, 224),
    "knn.max_bank": at_least(1, 20_000),
    "knn.max_queries": at_least(1, 5000),
    "knn.batch_size": at_least(1, 256),
    "knn.temperature": above(0, 0.07),
    "checkpoint.every_steps": at_least(1, 3750),
    "checkpoint.keep_last": at_least(1, 3),
    "checkpoint.keep_every_steps": at_least(1, 50_000),
    "checkpoint.snapshot_every_steps": at_least(1, 10_000),
    "recovery.max_steps": at_least(1, 2500),
    "recovery.seed_batches": at_least(0, 32),
    "recovery.open_below": Range(0, 1, 0.9, above=True),
    "recovery.patience_steps": at_least(1, 20),
    "recovery.warmup_steps": at_least(0, 100),
}
SWITCHES = ("train.rollback_after", "train.hang_timeout_s", "knn.every_steps", "panels.every_steps")
"""What 0 switches off."""


def check_ranges(config: Config) -> None:
    """Of all keys of `RANGES` that are set.

    Raises:
        ValueError: names the key, its value, the range and a value that works.
    """
    for key, allowed in RANGES.items():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        if value is not None and not allowed.holds(value):
            off = "; 0 switches it off" if key in SWITCHES else f"; use {allowed.works}"
            raise ValueError(f"{key}={value} must {allowed}{off}")
    low, high = config.ibot.mask_ratio_min_max
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"ibot.mask_ratio_min_max={(low, high)} must rise within 0..1; use (0.1, 0.5)"
        )
