"""A schedule that does not fit names its key."""

import dataclasses

import pytest

from dinojax.build.schedules import build_schedules
from dinojax.config import Config


@pytest.mark.parametrize("key", ["lr", "weight_decay", "momentum", "teacher_temp"])
@pytest.mark.parametrize("family", ["dinov2", "dinov3"])
def test_too_long(key, family):
    config = Config()
    schedule = dataclasses.replace(
        getattr(config.optim, key), family=family, warmup_steps=99, cosine_steps=None
    )
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, steps=60),
        optim=dataclasses.replace(
            config.optim,
            **{
                other: dataclasses.replace(getattr(config.optim, other), warmup_steps=0)
                for other in ("lr", "weight_decay", "momentum", "teacher_temp")
            }
            | {key: schedule},
        ),
    )
    with pytest.raises(ValueError, match=rf"^optim\.{key}: warmup_steps=99 .*into 60 steps; sho"):
        build_schedules(config)
