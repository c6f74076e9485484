"""Gram anchoring from its section of the configuration."""

from functools import partial

from dinojax.config.stages import GramConfig
from dinojax.kernels.resize import resize_grid
from dinojax.losses.gram import gram_loss
from dinojax.models.presets import Backbone
from dinojax.schedules import Schedule, zero_before
from dinojax.ssl.gram import GramAnchor, Refresh

EMA = "ema"
"""As gram.teacher: the EMA teacher itself."""
AUTO = "auto"
"""As gram.teacher: a snapshot of the run before (`dinojax.training.gram_choice`)."""


def has_gram_teacher(config: GramConfig) -> bool:
    """Whether the state holds a Gram teacher apart from the EMA teacher."""
    return config.use_loss and config.teacher != EMA


def build_refresh(config: GramConfig) -> Refresh:
    """When the Gram teacher becomes a copy of the EMA teacher."""
    return Refresh(
        config.load_ema_step,
        config.update_every_steps,
        config.first_update_step,
        config.max_updates,
    )


def build_gram(config: GramConfig, backbone: Backbone, weight: Schedule) -> GramAnchor | None:
    """What Gram anchoring adds to a step; None without it."""
    if not config.use_loss:
        return None
    if config.teacher is None:
        # The reference cannot load the EMA at a step (it wants a checkpoint all the same). Here
        # nothing is anchored until there is something to be anchored to.
        weight = zero_before(weight, config.load_ema_step or 0)
    negatives = "remove" if config.remove_neg else "keep"
    if config.remove_only_teacher_neg:
        negatives = "remove_teacher"
    return GramAnchor(
        backbone,
        weight,
        partial(gram_loss, normalized=config.normalized, negatives=negatives),
        partial(
            resize_grid,
            method=config.global_teacher_resize_method,
            antialias=config.global_teacher_resize_antialias,
        ),
        img_level=config.img_level,
        tokens_used=config.tokens_used,
        compute_stats=config.compute_stats,
        refresh=build_refresh(config),
    )
