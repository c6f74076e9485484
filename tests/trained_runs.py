"""Workdirs of runs that have computed nothing: a contract, and a state of random numbers."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from dinojax.build.step import build_init
from dinojax.config import Config, default_config, parse_config, to_dict
from dinojax.config.shrink import shrink
from dinojax.data.check import fingerprint
from dinojax.runtime.checkpoint import Checkpoints
from dinojax.runtime.contract import write_or_check
from dinojax.training.data import open_data
from dinojax.training.safety import make_series
from dinojax.typing import Params

STEP = 3


def small_config(**overrides: Any) -> Config:
    given = shrink(default_config())
    given.student.depth = 1
    given.student.patch_size = 8
    given.crops.global_crops_size, given.crops.local_crops_size = 16, 8
    given.knn.image_px = 16
    given.checkpoint.snapshot_every_steps = STEP
    given.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return parse_config(given)


def make_run(workdir: Path, config: Config, backbone: Params | None = None) -> Any:
    """A workdir with a checkpoint and a snapshot at `STEP`; returns the state in them.

    Args:
        backbone: of the EMA teacher; None: random like all else.
    """
    data = open_data(config)
    write_or_check(workdir, to_dict(config), fingerprint(data.source)._asdict())
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(build_init(config))
    state = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)
    if backbone is not None:
        state.teacher["backbone"] = backbone
    series: list[Checkpoints] = make_series(config.checkpoint, str(workdir))
    for one in series:
        with one:
            one.save(STEP, jax.device_put(state))
    return state
