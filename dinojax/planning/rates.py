"""How fast a recipe may run, and what it asks of hosts and storage."""

import math
from typing import NamedTuple

from dinojax.planning.topologies import Topology

MFU = (0.3, 0.5)
"""Shares of the devices' peak between which runs of such models usually lie: an assumption, not a
measurement of this code."""
DECODED_PER_CORE = 743
"""Images/s of the whole host path on one core: the lowest of docs/benchmarks.md, Input pipeline."""


class Rates(NamedTuple):
    """Each as (at the lower MFU, at the higher)."""

    images_per_second: tuple[float, float]
    device_hours: tuple[float, float]
    """Of the whole recipe, without evaluation and checkpoints."""
    decode_cores: tuple[int, int]
    """Over all hosts."""


def predict_rates(
    topology: Topology, flops_per_image: float, images: int, mfu: tuple[float, float] = MFU
) -> Rates:
    """Of `images` in all, the batch times the steps."""
    peak = topology.devices * topology.chip.peak_flops
    low, high = (share * peak / flops_per_image for share in mfu)
    return Rates(
        (low, high),
        (_hours(topology, images, low), _hours(topology, images, high)),
        (math.ceil(low / DECODED_PER_CORE), math.ceil(high / DECODED_PER_CORE)),
    )


def _hours(topology: Topology, images: int, per_second: float) -> float:
    return topology.devices * images / per_second / 3600
