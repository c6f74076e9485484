"""Head recovery from its section of the configuration."""

import math

from dinojax.config import Config
from dinojax.ssl.recovery import Gate, TargetWatch


def has_recovery(config: Config) -> bool:
    """Whether a run begins with new heads on a frozen backbone."""
    return config.recovery.max_steps is not None


def build_gate(config: Config) -> Gate | None:
    """When the backbone is trained; None: from the first step on."""
    recovery = config.recovery
    if recovery.max_steps is None:
        return None
    return Gate(
        recovery.open_below, recovery.patience_steps, recovery.max_steps, recovery.warmup_steps
    )


def build_watch(config: Config) -> TargetWatch | None:
    """What the gate sees of an objective."""
    if not has_recovery(config):
        return None
    patches = config.ibot.head if config.ibot.separate_head else config.dino.head
    return TargetWatch((math.log(config.dino.head.n_prototypes), math.log(patches.n_prototypes)))
